// What a training job may ask for: defaults, ranges, named sizes. The one owner of these numbers.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"
#include "model/errors/errors.h"
#include "tasuki/internal/files.pb.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

// Fills every default of `job` and adds every fault of its own text to `faults`: names, ranges,
// contradictions, duplicate tasks, labels, or values. Looks at nothing outside the message: whether
// datasets and base exist and fit is the server's part. Field paths begin at the job
// ("fine_tuning.tasks[0].labels"). Calling it again on a resolved job changes nothing.
//
// One default cannot be known here: the warm-up of a pre-training job that gives epochs. Its
// `warmup_steps` stays unset, and the trainer takes DefaultPretrainingWarmup once it knows the
// steps. Others are those that an evaluation takes from its version: labels, prefixes and
// max_input_tokens, which CheckJob (server/jobs/job_check.h) fills in.
void ResolveJob(v1::TrainingJob& job, Faults& faults);

// The same for the `tasuki.json` of a model, perhaps a stranger's: the rules for its tasks, whose
// datasets may be missing, and for its numbers.
void ResolveManifest(internal::ModelManifest& manifest, Faults& faults);

// A tenth of the steps, at most 1,000.
int64_t DefaultPretrainingWarmup(int64_t steps);

// `[a-z]([a-z0-9-]{0,61}[a-z0-9])?`, the form of every id in a resource name.
bool IsResourceId(absl::string_view id);

// Index into task.labels() of the label that the dataset value `value` means, or -1. REQUIRES: a
// resolved task.
int LabelOfValue(const v1::Task& task, absl::string_view value);

}  // namespace tasuki
