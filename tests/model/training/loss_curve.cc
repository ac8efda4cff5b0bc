// Takes the first steps of a fine-tuning job and writes what they learnt from and their losses, for
// tests/oracles/loss_curve.py to repeat with transformers.
//
//   loss_curve BASE_DIRECTORY TRAIN.jsonl STEPS OUT.safetensors
//
// The job is AMCD's: canonical rows with labels 0 and 1, whose targets are those digits; AdamW at
// the defaults but for dropout 0 and no clipping. OUT holds of each step i `i.input_ids`,
// `i.input_lengths`, `i.target_ids`, `i.target_lengths` (float32, exact up to 2^24), and `losses`.
#include <ATen/ATen.h>

#include <cstdlib>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "model/recipe/recipe.h"
#include "model/t5/t5.h"
#include "model/training/loss.h"
#include "model/training/optimizer.h"
#include "model/training/training.h"
#include "model/training/work.h"
#include "tests/model/training/sequences.h"

namespace tasuki {
namespace {

class Silent : public TrainingObserver {
  void OnProgress(const v1::Progress&) override {}
  void OnEvaluation(const v1::Evaluation&) override {}
  void OnCheckpoint(int64_t, bool, absl::Duration) override {}
  void OnMessage(v1::TrainingJobEvent::Message::Severity, const std::string& text) override {
    std::cerr << text << "\n";
  }
};

v1::TrainingJob AmcdJob(int64_t steps) {
  v1::TrainingJob job;
  job.set_model("models/amcd");
  v1::FineTuning& work = *job.mutable_fine_tuning();
  work.set_base_model_version("models/base/versions/1");
  v1::Task& task = *work.add_tasks();
  task.set_name("amcd");
  task.add_labels()->set_name("0");
  task.add_labels()->set_name("1");
  task.set_train_dataset("datasets/train");
  work.mutable_recipe()->set_steps(steps);
  work.mutable_recipe()->set_dropout(0);
  work.mutable_recipe()->set_max_gradient_norm(0);
  Faults faults;
  ResolveJob(job, faults);
  return job;
}

absl::Status Run(const std::string& base, const std::string& rows, int64_t steps,
                 const std::string& out) {
  const v1::TrainingJob job = AmcdJob(steps);
  const v1::Recipe& recipe = job.fine_tuning().recipe();
  Silent observer;
  StopSignal stop;
  TrainingPlaces places;
  places.base_directory = base;
  places.datasets["datasets/train"] = rows;
  auto work = PrepareFineTuning(job.fine_tuning(), places, stop, observer);
  if (!work.ok()) return work.status();
  const auto model = FirstModel(**work, "cpu");
  if (!model.ok()) return model.status();
  const auto optimizer = Optimizer::Create(recipe, model->trained());

  WeightMap written;
  std::vector<float> losses;
  for (int64_t step = 0; step < steps; ++step) {
    const Batch batch = (*work)->BatchAt(step);
    AddSequences(absl::StrCat(step, ".input"), batch.inputs, written);
    AddSequences(absl::StrCat(step, ".target"), batch.targets, written);
    ClearGradients(model->trained());
    losses.push_back(static_cast<float>(Backward(*model, batch, {.dropout = DropoutOf(**work)})));
    optimizer->Step({.step = step + 1, .learning_rate = LearningRate(recipe, step, steps)});
  }
  written["losses"] = at::tensor(losses);
  return WriteTensors(out, written, {});
}

}  // namespace
}  // namespace tasuki

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: loss_curve BASE_DIRECTORY TRAIN.jsonl STEPS OUT.safetensors\n";
    return 2;
  }
  const absl::Status status = tasuki::Run(argv[1], argv[2], std::atoll(argv[3]), argv[4]);
  if (!status.ok()) std::cerr << status << "\n";
  return status.ok() ? 0 : 1;
}
