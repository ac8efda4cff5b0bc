#include "model/training/work.h"

#include <algorithm>
#include <utility>

#include "model/errors/errors.h"
#include "model/training/optimizer.h"
#include "model/training/padded_loss.h"

namespace tasuki {

absl::StatusOr<T5> FirstModel(const Work& work, const std::string& device) {
  const Precision precision =
      work.recipe().precision() == v1::Recipe::BF16 ? Precision::kBf16 : Precision::kFp32;
  if (device == "cpu" && !CanDo(BestKernels(), precision)) {
    return MakeError(absl::StatusCode::kFailedPrecondition, v1::FIELD_INVALID,
                     "This job trains in BF16, which needs a CPU with AVX512-BF16 and AVX512-VNNI; "
                     "this machine is another one.");
  }
  auto weights = work.FirstWeights();
  if (!weights.ok()) return weights.status();
  const v1::Recipe& recipe = work.recipe();
  Adapter adapter;
  if (work.lora() != nullptr) {
    adapter = InitialAdapter(work.config(), *work.lora(), recipe.seed());
    adapter.weights = OnDevice(std::move(adapter.weights), device);
  }
  T5 model(work.config(), OnDevice(*std::move(weights), device), std::move(adapter), precision);
  for (const auto& [name, weight] : model.trained()) {
    weight.set_requires_grad(!IsFrozen(recipe, name));
  }
  return model;
}

Dropout DropoutOf(const Work& work) {
  return {.network = work.recipe().dropout(),
          .adapter = work.lora() != nullptr ? work.lora()->dropout() : 0};
}

int64_t TokensAtOnce(const std::string& device) {
  return device == "cpu" ? kTokensAtOnce : kTokensAtOnceOnGpu;
}

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
