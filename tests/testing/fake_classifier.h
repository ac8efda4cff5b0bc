// A classifier whose answers are known: input i of a batch with tokens {t, …} scores {-t, -2t}.
//
// A gate holds the executor inside Score, so that a test decides what waits meanwhile.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/metrics/metrics.h"
#include "server/serving/loaded_model.h"

namespace tasuki {

// What the forward passes of a FakeClassifier saw, and when they may go on. Thread-safe.
class ScoreLog {
 public:
  // Holds forward passes from the next one on; Open lets them go.
  void Close() {
    absl::MutexLock lock(&mutex_);
    open_ = false;
  }
  void Open() {
    absl::MutexLock lock(&mutex_);
    open_ = true;
  }
  // Waits until a forward pass is held.
  void AwaitHeld() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&held_));
  }
  // Token counts of the inputs of each pass.
  std::vector<std::vector<size_t>> passes() const {
    absl::MutexLock lock(&mutex_);
    return passes_;
  }
  // How long a pass takes for each of its tokens; nothing at first.
  void SetPace(absl::Duration pace) {
    absl::MutexLock lock(&mutex_);
    pace_ = pace;
  }
  void Fail(absl::Status status) {
    absl::MutexLock lock(&mutex_);
    error_ = std::move(status);
  }

  absl::Status Pass(std::vector<size_t> lengths) {
    int64_t tokens = 0;
    for (const size_t length : lengths) tokens += static_cast<int64_t>(length);
    absl::MutexLock lock(&mutex_);
    passes_.push_back(std::move(lengths));
    held_ = true;
    mutex_.Await(absl::Condition(&open_));
    held_ = false;
    const bool never = false;
    mutex_.AwaitWithTimeout(absl::Condition(&never), pace_ * tokens);
    return std::exchange(error_, absl::OkStatus());
  }

 private:
  mutable absl::Mutex mutex_;
  bool open_ ABSL_GUARDED_BY(mutex_) = true;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration pace_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::vector<size_t>> passes_ ABSL_GUARDED_BY(mutex_);
};

class FakeClassifier : public Classifier {
 public:
  FakeClassifier(internal::ModelManifest manifest, std::shared_ptr<ScoreLog> log)
      : manifest_(std::move(manifest)), log_(std::move(log)) {}

  const internal::ModelManifest& manifest() const override { return manifest_; }
  int TaskIndex(absl::string_view name) const override {
    for (int i = 0; i < manifest_.tasks_size(); ++i) {
      if (manifest_.tasks(i).name() == name) return i;
    }
    return -1;
  }
  // One token a byte, and one for the end; cut at the manifest's limit, if it has one.
  absl::StatusOr<Input> Prepare(int task, absl::string_view text, Truncation) const override {
    Input input;
    input.task = task;
    input.tokens.assign(text.begin(), text.end());
    input.tokens.push_back(1);
    input.token_count = static_cast<int>(input.tokens.size());
    const int limit = manifest_.max_input_tokens();
    input.truncated = limit > 0 && input.token_count > limit;
    if (input.truncated) input.tokens.resize(limit);
    return input;
  }
  absl::StatusOr<std::vector<std::vector<float>>> Score(absl::Span<const Input* const> inputs,
                                                        Pass& pass) const override {
    pass.encode = absl::Milliseconds(2);
    pass.decode = absl::Milliseconds(1);
    pass.padding_tokens = 3;
    std::vector<size_t> lengths;
    std::vector<std::vector<float>> scores;
    for (const Input* input : inputs) {
      lengths.push_back(input->tokens.size());
      const auto first = static_cast<float>(input->tokens.front());
      scores.push_back({-first, -2 * first});
    }
    if (absl::Status status = log_->Pass(std::move(lengths)); !status.ok()) return status;
    return scores;
  }
  int64_t memory_bytes() const override { return 1; }

 private:
  const internal::ModelManifest manifest_;
  const std::shared_ptr<ScoreLog> log_;
};

// A task with two labels, "yes" and "no".
inline v1::Task YesNoTask(const std::string& name) {
  v1::Task task;
  task.set_name(name);
  for (const char* label : {"yes", "no"}) {
    task.add_labels()->set_name(label);
    task.mutable_labels()->rbegin()->set_target_text(label);
  }
  return task;
}

inline std::shared_ptr<const LoadedModel> FakeModel(const std::string& name,
                                                    std::shared_ptr<ScoreLog> log, Metrics& metrics,
                                                    internal::ModelManifest manifest = {}) {
  if (manifest.tasks().empty()) {
    for (const char* task : {"first", "second"}) *manifest.add_tasks() = YesNoTask(task);
  }
  ServedModel served;
  served.name = name;
  for (const v1::Task& task : manifest.tasks()) {
    served.tasks.push_back({task.name(), {}});
    for (const v1::Label& label : task.labels()) {
      served.tasks.back().labels.push_back(label.name());
    }
  }
  auto model = std::make_shared<LoadedModel>();
  model->name = name;
  model->classifier = std::make_unique<FakeClassifier>(std::move(manifest), std::move(log));
  model->metrics = metrics.ForModel(served);
  return model;
}

}  // namespace tasuki
