// Evaluation of a published model version on labelled datasets: the third kind of work, which
// trains nothing. Includes torch.
#pragma once

#include "absl/status/statusor.h"
#include "model/training/progress.h"
#include "model/training/training.h"

namespace tasuki {

// Evaluates every task of `job` (complete: with labels, prefix and max_input_tokens) both ways,
// measures the version's calibration, and writes the answers to `places.predictions_file` if they
// are to be kept, published as a whole. Told to stop it ends unfinished and keeps nothing. Errors
// as of Train.
absl::StatusOr<TrainingOutcome> EvaluateVersion(const v1::EvaluationJob& job,
                                                const TrainingPlaces& places,
                                                const TrainingOptions& options,
                                                const StopSignal& stop, TrainingObserver& observer,
                                                ProgressReporter& progress);

}  // namespace tasuki
