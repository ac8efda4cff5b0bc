// A store in a temporary directory with one dataset, and jobs whose trainer is the fake one.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "model/files/durable.h"
#include "model/files/safetensors.h"
#include "model/text/tokenizer.h"
#include "server/jobs/jobs.h"
#include "server/metrics/metrics.h"
#include "server/store/data_directory.h"
#include "server/store/dataset_table.h"
#include "server/store/job_table.h"
#include "server/store/model_table.h"
#include "server/store/store.h"

namespace tasuki {

inline constexpr char kFakeTrainer[] = TASUKI_BINARY_DIR "/fake_trainer";

class JobFixture : public testing::Test {
 protected:
  using Job = v1::TrainingJob;

  JobFixture() {
    char root[] = "/tmp/tasuki_jobs_XXXXXX";
    data_ = std::make_unique<DataDirectory>(mkdtemp(root));
    store_ = *Store::Open(data_->database(), metrics_);
    options_.trainer_path = kFakeTrainer;
    options_.stop_grace = absl::Seconds(20);
    options_.death_pause = absl::ZeroDuration();
    AddDataset("d-texts", {});
  }
  ~JobFixture() override {
    jobs_.reset();
    store_.reset();
    EXPECT_TRUE(RemoveAll(data_->root()).ok());
  }

  // A dataset with these label values, texts only if there are none.
  void AddDataset(const std::string& id, const std::vector<std::pair<std::string, int>>& labels) {
    v1::Dataset dataset;
    dataset.set_name("datasets/" + id);
    dataset.set_row_count(10);
    dataset.set_labelled(!labels.empty());
    for (const auto& [value, count] : labels) {
      auto& label = *dataset.add_label_counts();
      label.set_value(value);
      label.set_row_count(count);
    }
    ASSERT_TRUE(store_->datasets().Insert(dataset).ok());
  }

  // A version of `model` with a tokenizer that knows Latin letters, weights that have a T5's names
  // only (ReLU, not gated), and `tasks`.
  void PublishVersion(const std::string& model, const std::vector<v1::Task>& tasks = {}) {
    const auto reserved =
        store_->models().Reserve(model, absl::StrCat("key", ++versions_), "").value();
    const std::string directory = data_->model_version(reserved.name);
    ASSERT_TRUE(MakeDirectories(directory).ok());
    std::vector<std::string> texts;
    for (int i = 0; i < 200; ++i) {
      texts.push_back(absl::StrCat("a good day and a bad night, number ", i * 7919));
    }
    ASSERT_TRUE(
        TrainTokenizer(texts, {.vocabulary_size = 200, .threads = 1}, directory + "/spiece.model")
            .ok());
    std::map<std::string, TensorEntry> weights;
    for (const char* module : {"SelfAttention.q", "SelfAttention.k", "SelfAttention.v",
                               "SelfAttention.o", "DenseReluDense.wi", "DenseReluDense.wo"}) {
      weights[absl::StrCat("encoder.block.0.layer.0.", module, ".weight")] = {"F32", {0}};
    }
    ASSERT_TRUE(WriteSafetensors(directory + "/model.safetensors", weights, {}).ok());
    v1::ModelVersion version;
    version.set_name(reserved.name);
    version.add_files()->set_name("model.safetensors");
    version.mutable_tasks()->Assign(tasks.begin(), tasks.end());
    version.set_max_input_tokens(77);
    ASSERT_TRUE(store_->models().Publish(version, false).ok());
  }
  // models/mood/versions/1 with the task "mood".
  void PublishMoodVersion() {
    v1::Task task;
    task.set_name("mood");
    task.set_prefix("mood: ");
    for (const char* name : {"good", "bad"}) {
      auto& label = *task.add_labels();
      label.set_name(name);
      label.set_target_text(name);
      label.add_values(name);
    }
    PublishVersion("models/mood", {task});
  }
  // The evaluation of a version on the task "mood" of datasets/d-train.
  static Job EvaluationJobOf(const std::string& version) {
    Job job;
    job.mutable_evaluation()->set_model_version(version);
    job.mutable_evaluation()->add_tasks()->set_name("mood");
    job.mutable_evaluation()->mutable_tasks(0)->set_test_dataset("datasets/d-train");
    return job;
  }

  // A new server's Jobs; an earlier one is gone.
  void StartJobs() {
    jobs_.reset();
    jobs_ = std::make_unique<Jobs>(
        *store_, *data_, options_, metrics_,
        [this](const Job& job, const std::string& result) { return publish_(job, result); },
        [this](const std::string& alias, const std::string& version, const std::string& job) {
          return deploy_(alias, version, job);
        });
    jobs_->SetListener([this](const std::string& job) {
      {
        absl::MutexLock lock(&mutex_);
        ++changes_;
      }
      if (listener_) listener_(job);
    });
    ASSERT_TRUE(jobs_->Start().ok());
  }

  // A pre-training job whose trainers follow `script` (fake_trainer.cc).
  static v1::CreateTrainingJobRequest RequestOf(const std::string& script) {
    v1::CreateTrainingJobRequest request;
    request.mutable_training_job()->set_display_name(script);
    request.mutable_training_job()->set_model("models/m");
    request.mutable_training_job()->mutable_pretraining()->add_datasets("datasets/d-texts");
    return request;
  }
  std::string Create(const std::string& script) {
    const auto job = jobs_->Create(RequestOf(script));
    EXPECT_TRUE(job.ok()) << job.status();
    return job.ok() ? job->name() : "";
  }

  Job Get(const std::string& name) { return store_->jobs().Get(name).value(); }
  std::vector<v1::TrainingJobEvent> Events(const std::string& name) {
    return store_->jobs().ReadEvents(name, 1, 10'000).value();
  }
  // The job's states, one after the other.
  std::vector<Job::State> States(const std::string& name) {
    std::vector<Job::State> states;
    for (const auto& event : Events(name)) {
      if (event.has_state_changed()) states.push_back(event.state_changed().state());
    }
    return states;
  }
  // Waits until the job as stored fulfils `condition`; answers it.
  Job Await(const std::string& name, const std::function<bool(const Job&)>& condition) {
    const absl::Time deadline = absl::Now() + absl::Seconds(30);
    while (true) {
      int seen;
      {
        absl::MutexLock lock(&mutex_);
        seen = changes_;
      }
      Job job = Get(name);
      if (condition(job)) return job;
      absl::MutexLock lock(&mutex_);
      const auto changed = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return changes_ != seen; };
      if (!mutex_.AwaitWithDeadline(absl::Condition(&changed), deadline)) {
        ADD_FAILURE() << "in vain: " << job.DebugString();
        return job;
      }
    }
  }
  Job AwaitState(const std::string& name, Job::State state) {
    return Await(name, [state](const Job& job) { return job.state() == state; });
  }
  // Waits until the job's trainer has said something: an event other than states.
  void AwaitWord(const std::string& name) {
    Await(name, [](const Job& job) { return job.has_progress(); });
  }

  Metrics metrics_;
  std::unique_ptr<DataDirectory> data_;
  std::unique_ptr<Store> store_;
  JobsOptions options_;
  Jobs::Deploy deploy_ = [](const std::string&, const std::string&, const std::string&) {
    return absl::UnimplementedError("no alias is set here");
  };
  std::function<absl::StatusOr<std::string>(const Job&, const std::string&)> publish_ =
      [](const Job&, const std::string&) { return "models/m/versions/1"; };
  std::function<void(const std::string& job)> listener_;
  std::unique_ptr<Jobs> jobs_;

 private:
  int versions_ = 0;
  absl::Mutex mutex_;
  int changes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tasuki
