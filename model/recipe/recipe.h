// What a training job may ask for: defaults, ranges, named sizes. The one owner of these numbers.
#pragma once

#include "absl/status/status.h"
#include "model/errors/errors.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

// Fills every default of `job` and adds every fault of its own text to `faults`: names, ranges,
// contradictions, duplicate tasks, labels, or values. Looks at nothing outside the message: whether
// datasets and base exist and fit is the server's part. Field paths begin at the job
// ("fine_tuning.tasks[0].labels"). Calling it again on a resolved job changes nothing.
void ResolveJob(v1::TrainingJob& job, Faults& faults);

// `[a-z]([a-z0-9-]{0,61}[a-z0-9])?`, the form of every id in a resource name.
bool IsResourceId(absl::string_view id);

// Target texts by dataset value: index into task.labels() of the label that `value` means, or -1.
int LabelOfValue(const v1::Task& task, absl::string_view value);

}  // namespace tasuki
