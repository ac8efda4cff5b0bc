// A model directory as a job leaves it: a T5 of TINY size with a tokenizer of its own, made in a
// fraction of a second. Its weights have learnt nothing.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "model/files/durable.h"
#include "model/files/model_directory.h"
#include "model/recipe/recipe.h"
#include "model/text/examples.h"
#include "model/training/training.h"

namespace tasuki {

// Task `name` with the labels "good" and "bad".
inline v1::Task TinyTask(const std::string& name) {
  v1::Task task;
  task.set_name(name);
  for (const char* label : {"good", "bad"}) {
    task.add_labels()->set_name(label);
    task.mutable_labels()->rbegin()->set_target_text(label);
  }
  task.set_prefix(name + ": ");
  task.set_weight(1);
  return task;
}

inline constexpr char kTinyDataset[] = "datasets/d-0000000000000000";

// Runs a job, whose only dataset are 64 texts of kTinyDataset, in the directory's place.
inline absl::Status TrainTiny(v1::TrainingJob job, const std::string& base_directory,
                              const std::string& directory) {
  const std::string work = directory + ".work";
  if (absl::Status status = MakeDirectories(work); !status.ok()) return status;
  std::string rows;
  for (int i = 0; i < 64; ++i) {
    v1::Example row;
    row.set_label(i % 2 == 0 ? "good" : "bad");
    row.set_text(absl::StrCat("the room number ", i, " was ", row.label()));
    rows += CanonicalLine(row, /*labelled=*/job.has_fine_tuning());
  }
  if (absl::Status status = WriteFile(work + "/texts.jsonl", rows); !status.ok()) return status;

  Faults faults;
  ResolveJob(job, faults);
  if (!faults.empty()) return faults.ToStatus();
  TrainingPlaces places;
  places.base_directory = base_directory;
  places.datasets = {{kTinyDataset, work + "/texts.jsonl"}};
  places.checkpoints_directory = work + "/checkpoints";
  places.result_directory = directory;
  places.training_job = job.name();
  class Nobody : public TrainingObserver {
    void OnProgress(const v1::Progress&) override {}
    void OnEvaluation(const v1::Evaluation&) override {}
    void OnCheckpoint(int64_t, bool, absl::Duration) override {}
    void OnMessage(v1::TrainingJobEvent::Message::Severity, const std::string&) override {}
  } nobody;
  const auto outcome = Train(job, places, TrainingOptions(), StopSignal(), nobody);
  if (!outcome.ok()) return outcome.status();
  return RemoveAll(work);
}

// Makes `directory`, which must not exist; its parent must. Without tasks it is a base model.
inline absl::Status WriteTinyModel(const std::string& directory, const std::vector<v1::Task>& tasks,
                                   v1::ModelSize::Preset size = v1::ModelSize::TINY) {
  v1::TrainingJob job;
  job.set_name("trainingJobs/tiny");
  job.set_model("models/tiny");
  auto& pretraining = *job.mutable_pretraining();
  pretraining.add_datasets(kTinyDataset);
  pretraining.set_vocabulary_size(200);
  pretraining.mutable_size()->set_preset(size);
  pretraining.mutable_recipe()->set_steps(1);
  pretraining.mutable_recipe()->set_batch_size(2);
  absl::Status status = TrainTiny(job, /*base_directory=*/"", directory);
  if (!status.ok() || tasks.empty()) return status;
  absl::StatusOr<internal::ModelManifest> manifest = ReadManifest(directory);
  if (!manifest.ok()) return manifest.status();
  manifest->mutable_tasks()->Assign(tasks.begin(), tasks.end());
  manifest->set_max_input_tokens(64);
  return WriteManifest(directory, *std::move(manifest));
}

// Makes `directory` as a job leaves it that trained an adapter on `base`, whose files are in
// `base_directory`, for TinyTask("mood"). Another seed makes another adapter.
inline absl::Status WriteTinyAdapter(const std::string& directory, const std::string& base,
                                     const std::string& base_directory, int64_t seed) {
  v1::TrainingJob job;
  job.set_name("trainingJobs/tiny");
  job.set_model("models/tiny");
  v1::FineTuning& work = *job.mutable_fine_tuning();
  work.set_base_model_version(base);
  *work.add_tasks() = TinyTask("mood");
  work.mutable_tasks(0)->set_train_dataset(kTinyDataset);
  work.mutable_recipe()->set_steps(3);
  work.mutable_recipe()->set_batch_size(8);
  work.mutable_recipe()->set_learning_rate(.01);
  work.mutable_recipe()->set_seed(seed);
  work.mutable_lora();
  return TrainTiny(job, base_directory, directory);
}

}  // namespace tasuki
