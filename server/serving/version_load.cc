#include "server/serving/version_load.h"

#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "model/files/durable.h"

namespace tasuki {

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadVersion(const v1::ModelVersion& version,
                                                         const std::string& directory,
                                                         const ClassifierOptions& options,
                                                         int64_t queue_limit_tokens,
                                                         Metrics& metrics) {
  absl::Status status = CheckFiles(directory, {version.files().begin(), version.files().end()});
  if (!status.ok()) return status;
  absl::StatusOr<std::unique_ptr<Classifier>> classifier = Classifier::Load(directory, options);
  if (!classifier.ok()) return classifier.status();

  ServedModel served;
  served.name = version.name();
  served.device = options.device;
  served.precision = PrecisionName(options.precision);
  served.memory_bytes = (*classifier)->memory_bytes();
  served.queue_limit_tokens = queue_limit_tokens;
  for (const auto& task : (*classifier)->manifest().tasks()) {
    auto& entry = served.tasks.emplace_back();
    entry.name = task.name();
    for (const auto& label : task.labels()) entry.labels.push_back(label.name());
  }
  auto model = std::make_unique<LoadedModel>();
  model->name = version.name();
  model->classifier = *std::move(classifier);
  model->memory_bytes = model->classifier->memory_bytes();
  model->metrics = metrics.ForModel(served);
  return model;
}

absl::Status WarmUp(const std::shared_ptr<const LoadedModel>& model, Batcher& batcher) {
  Batcher::Request request;
  request.model = model;
  for (int task = 0; task < model->classifier->manifest().tasks_size(); ++task) {
    absl::StatusOr<Classifier::Input> input = model->classifier->Prepare(task, "tasuki");
    if (!input.ok()) return input.status();
    request.inputs.push_back(*std::move(input));
  }
  absl::Status result;
  absl::Notification done;
  request.done = [&](const absl::StatusOr<Batcher::Answer>& answer) {
    result = answer.status();
    done.Notify();
  };
  if (absl::Status status = batcher.Submit(std::move(request)); !status.ok()) return status;
  done.WaitForNotification();
  return result;
}

}  // namespace tasuki
