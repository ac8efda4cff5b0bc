// What a training run works through: its examples step by step, and how its weights are judged.
// Fine-tuning and pre-training are the two kinds; the loop in training.cc knows neither. Includes
// torch.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/t5/config.h"
#include "model/t5/t5.h"
#include "model/t5/weights.h"
#include "model/training/loss.h"
#include "model/training/progress.h"
#include "model/training/training.h"
#include "tasuki/internal/files.pb.h"

namespace tasuki {

// What is told and published of the final weights.
struct FinalJudgement {
  std::vector<v1::Evaluation> evaluations;
  std::vector<v1::Calibration> calibrations;
};

// Thread-compatible.
class Work {
 public:
  virtual ~Work() = default;

  virtual const v1::Recipe& recipe() const = 0;
  virtual const T5Config& config() const = 0;
  // Weights before the first step. Errors as of ReadWeights.
  virtual absl::StatusOr<WeightMap> FirstWeights() const = 0;
  // The adapter that is trained in their place; null if there is none.
  virtual const v1::Lora* lora() const { return nullptr; }

  virtual int64_t steps_per_epoch() const = 0;
  // What the step that follows `step` others learns from: a pure function of seed and step.
  virtual Batch BatchAt(int64_t step) = 0;
  // The step of the first epoch that learns from the most input tokens.
  virtual int64_t LongestStep() = 0;
  // Where the examples of that step come from, for a message.
  virtual std::string DescribeBatch(int64_t step) = 0;

  // Evaluates on the held-out rows; empty if there are none. CANCELLED once `stop` is requested.
  virtual absl::StatusOr<std::vector<v1::Evaluation>> Evaluate(
      const T5& model, const StopSignal& stop, ProgressReporter& progress) const = 0;
  // The evaluations to publish with the model, and its calibration.
  virtual absl::StatusOr<FinalJudgement> EvaluateFinally(const T5& model, const StopSignal& stop,
                                                         TrainingObserver& observer,
                                                         ProgressReporter& progress) const = 0;
  // Input tokens that go through the encoder in Evaluate, and in EvaluateFinally.
  virtual int64_t evaluation_tokens() const = 0;
  virtual int64_t final_evaluation_tokens() const = 0;
  // What the best checkpoint has most of; nullopt if the last one is to be taken.
  virtual std::optional<double> Figure(const std::vector<v1::Evaluation>& evaluations) const = 0;

  // The directory with the tokenizer, and perhaps transformers' files about it, to publish.
  virtual const std::string& tokenizer_directory() const = 0;
  // What the work knows of the model's manifest.
  virtual internal::ModelManifest Manifest() const = 0;
};

// Reads, tokenises and checks the data, and tells how much was cut. Errors as of Train; CANCELLED
// once `stop` is requested.
absl::StatusOr<std::unique_ptr<Work>> PrepareFineTuning(const v1::FineTuning& job,
                                                        const TrainingPlaces& places,
                                                        const StopSignal& stop,
                                                        TrainingObserver& observer);
// The same for pre-training. The tokenizer is trained once and kept with the checkpoints.
absl::StatusOr<std::unique_ptr<Work>> PreparePretraining(const v1::Pretraining& job,
                                                         const TrainingPlaces& places, int threads,
                                                         const StopSignal& stop,
                                                         TrainingObserver& observer);
// The one that `job` (fine_tuning or pretraining) needs.
absl::StatusOr<std::unique_ptr<Work>> PrepareWork(const v1::TrainingJob& job,
                                                  const TrainingPlaces& places, int threads,
                                                  const StopSignal& stop,
                                                  TrainingObserver& observer);

// The model before the first step, with gradients for what is trained, on `device` (`cpu` or
// `cuda:N`). Errors as of FirstWeights.
absl::StatusOr<T5> FirstModel(const Work& work, const std::string& device);
// What is zeroed while it is trained.
Dropout DropoutOf(const Work& work);

// Input tokens that go through the model at once, to begin with.
int64_t TokensAtOnce(const std::string& device);

// Steps that the recipe asks for, and steps from one evaluation to the next.
int64_t TotalSteps(const Work& work);
int64_t StepsPerEvaluation(const Work& work);

}  // namespace tasuki
