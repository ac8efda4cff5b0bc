#include "server/serving/version_load.h"

#include <malloc.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "model/files/model_directory.h"
#include "spdlog/spdlog.h"

namespace tasuki {
namespace {

std::string TokenizerOf(const v1::ModelVersion& version) {
  for (const v1::ModelFile& file : version.files()) {
    if (file.name() == "spiece.model") return file.sha256();
  }
  return "";
}

}  // namespace

absl::StatusOr<std::unique_ptr<LoadedModel>> VersionLoader::Load(const v1::ModelVersion& version) {
  absl::StatusOr<std::unique_ptr<Classifier>> classifier(nullptr);
  bool shares = version.has_lora() && !version.base_model_version().empty();
  if (shares) {
    classifier = LoadAdapter(version);
    shares = classifier.ok();
    if (!shares) {
      spdlog::warn("{} answers by weights of its own, with its adapter merged in: {}",
                   version.name(), classifier.status().ToString());
    }
  }
  if (!shares) {
    auto base = Base(version);
    if (!base.ok()) return base.status();
    classifier = Open(version, *std::move(base), /*adapter=*/false);
  }
  if (!classifier.ok()) return classifier.status();

  ServedModel served;
  served.name = version.name();
  served.device = options_.device;
  served.precision = PrecisionName(options_.precision);
  served.memory_bytes = (*classifier)->memory_bytes();
  served.queue_limit_tokens = queue_limit_tokens_;
  for (const auto& task : (*classifier)->manifest().tasks()) {
    auto& entry = served.tasks.emplace_back();
    entry.name = task.name();
    for (const auto& label : task.labels()) entry.labels.push_back(label.name());
  }
  auto model = std::make_unique<LoadedModel>();
  model->name = version.name();
  model->classifier = *std::move(classifier);
  model->memory_bytes = model->classifier->memory_bytes();
  model->metrics = metrics_.ForModel(served);
  if (shares) model->shared_base_model_version = version.base_model_version();
  return model;
}

absl::StatusOr<std::unique_ptr<Classifier>> VersionLoader::LoadAdapter(
    const v1::ModelVersion& version) {
  const auto base = table_.GetVersion(version.base_model_version());
  if (!base.ok()) return base.status();
  if (TokenizerOf(*base) != TokenizerOf(version)) {
    return MakeError(absl::StatusCode::kDataLoss, v1::FILE_CHANGED,
                     absl::StrCat("the spiece.model of ", base->name(), " is another"));
  }
  auto loaded = Base(*base);
  if (!loaded.ok()) return loaded.status();
  return Open(version, *std::move(loaded), /*adapter=*/true);
}

absl::StatusOr<std::unique_ptr<Classifier>> VersionLoader::Open(
    const v1::ModelVersion& version, std::shared_ptr<const LoadedBase> base, bool adapter) {
  std::vector<v1::ModelFile> opened;
  for (const v1::ModelFile& file : version.files()) {
    if (file.name() == kManifestName || (adapter && IsAdapterFile(file.name()))) {
      opened.push_back(file);
    }
  }
  const std::string directory = data_.model_version(version.name());
  if (absl::Status status = CheckFiles(directory, opened); !status.ok()) return status;
  return adapter ? Classifier::LoadAdapter(directory, std::move(base))
                 : Classifier::LoadOver(directory, std::move(base));
}

absl::StatusOr<std::shared_ptr<const LoadedBase>> VersionLoader::Base(
    const v1::ModelVersion& version) {
  const std::string directory = data_.model_version(version.name());
  {
    absl::MutexLock lock(&mutex_);
    if (auto base = bases_[version.name()].lock()) return base;
  }
  absl::Status status = CheckFiles(directory, {version.files().begin(), version.files().end()});
  if (!status.ok()) return status;
  auto base = LoadedBase::Load(directory, options_);
  malloc_trim(0);  // the weights as they were read, as many bytes again
  if (base.ok()) {
    absl::MutexLock lock(&mutex_);
    std::erase_if(bases_, [](const auto& entry) { return entry.second.expired(); });
    bases_[version.name()] = *base;
  }
  return base;
}

std::map<std::string, int64_t> VersionLoader::WeightsInMemory() const {
  absl::MutexLock lock(&mutex_);
  std::map<std::string, int64_t> bytes;
  for (const auto& [name, weights] : bases_) {
    if (const auto base = weights.lock()) bytes[name] = base->memory_bytes();
  }
  return bytes;
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
