#include "model/training/work.h"

#include <algorithm>

namespace tasuki {

int64_t TotalSteps(const Work& work) {
  const v1::Recipe& recipe = work.recipe();
  return recipe.has_steps() ? recipe.steps() : recipe.epochs() * work.steps_per_epoch();
}

int64_t StepsPerEvaluation(const Work& work) {
  const v1::Recipe& recipe = work.recipe();
  return recipe.evaluate_every_steps() > 0
             ? recipe.evaluate_every_steps()
             : std::max(1, recipe.evaluate_every_epochs()) * work.steps_per_epoch();
}

absl::StatusOr<std::unique_ptr<Work>> PrepareWork(const v1::TrainingJob& job,
                                                  const TrainingPlaces& places, int threads,
                                                  const StopSignal& stop,
                                                  TrainingObserver& observer) {
  if (job.has_pretraining()) {
    return PreparePretraining(job.pretraining(), places, threads, stop, observer);
  }
  return PrepareFineTuning(job.fine_tuning(), places, stop, observer);
}

}  // namespace tasuki
