// The check of a new job against what the server has: datasets, labels, base.
#pragma once

#include "absl/status/status.h"
#include "model/errors/errors.h"
#include "server/store/data_directory.h"
#include "server/store/store.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

// Adds to `faults` all that the store knows against `job` (resolved by ResolveJob): unknown
// datasets and versions, datasets without labels, label values that no label of the task means,
// labels that the version's tokenizer cannot tell apart. Replaces `models/{m}` by its newest
// version and gives an evaluation the labels, prefixes and max_input_tokens of its version. An
// error of its own is one of the store or of the base's files, not of the job.
absl::Status CheckJob(Store& store, const DataDirectory& data, v1::TrainingJob& job,
                      Faults& faults);

}  // namespace tasuki
