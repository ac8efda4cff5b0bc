// What a job would need: steps, tokens, memory, time.
#pragma once

#include "absl/status/statusor.h"
#include "model/training/training.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

// Prepares the job's data as Train does (pre-training makes its tokenizer), counts the tokens of
// its steps, and takes some of them, from the job's first weights, for five seconds or 20 steps to
// measure the speed; none if the estimated memory is more than the machine has free. What is
// written goes to `places.checkpoints_directory` alone. Warnings of the data become notes. The
// memory's formula is in docs/design.md, "Estimates". Errors as of Train; CANCELLED once `stop` is
// requested.
absl::StatusOr<v1::EstimateTrainingJobResponse> Estimate(const v1::TrainingJob& job,
                                                         const TrainingPlaces& places,
                                                         const TrainingOptions& options,
                                                         const StopSignal& stop);

}  // namespace tasuki
