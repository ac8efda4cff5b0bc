// What a training job may ask for: defaults, ranges, named sizes. The one owner of these numbers.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"
#include "model/errors/errors.h"
#include "tasuki/internal/files.pb.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

class FieldChecker;

// max_input_tokens of fine-tuning, of an evaluation, of a version.
inline constexpr int kMinInputTokens = 8, kDefaultInputTokens = 512, kMaxInputTokens = 4096;

// Fills every default of `job` and adds every fault of its own text to `faults`: names, ranges,
// contradictions, duplicate tasks, labels, or values. Looks at nothing outside the message: whether
// datasets and base exist and fit is the server's part. Field paths begin at the job
// ("fine_tuning.tasks[0].labels"). Calling it again on a resolved job changes nothing.
//
// Some defaults cannot be known here: those that an evaluation takes from its version. Its labels,
// prefixes and max_input_tokens are filled in by CheckJob (server/jobs/job_check.h).
void ResolveJob(v1::TrainingJob& job, Faults& faults);

// The same for the `tasuki.json` of a model, perhaps a stranger's: the rules for its tasks, whose
// datasets may be missing, and for its numbers.
void ResolveManifest(internal::ModelManifest& manifest, Faults& faults);

// The display_name of a job or dataset: up to 63 characters, none of them a control character.
void CheckDisplayName(const FieldChecker& check, absl::string_view name);

// `[a-z]([a-z0-9-]{0,61}[a-z0-9])?`, the form of every id in a resource name.
bool IsResourceId(absl::string_view id);

// Index into task.labels() of the label that the dataset value `value` means, or -1. REQUIRES: a
// resolved task.
int LabelOfValue(const v1::Task& task, absl::string_view value);

}  // namespace tasuki
