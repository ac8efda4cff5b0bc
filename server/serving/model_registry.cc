#include "server/serving/model_registry.h"

#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "server/store/store.h"
#include "spdlog/spdlog.h"

namespace tasuki {

ModelRegistry::ModelRegistry(Store& store, const DataDirectory& data, const ServingOptions& options,
                             Metrics& metrics)
    : table_(store.models()),
      data_(data),
      options_(options),
      metrics_(metrics),
      batcher_({options.max_batch_tokens, options.max_queue_tokens}, metrics),
      loads_(store.models(), data, {options.threads, options.device, options.precision},
             options.max_queue_tokens, metrics) {}

ModelRegistry::~ModelRegistry() { Stop(); }

absl::Status ModelRegistry::Start() {
  SweepVersions(table_, data_);
  std::string models_token;
  do {
    const auto models = table_.ListModels(1000, models_token);
    if (!models.ok()) return models.status();
    for (const v1::Model& model : models->rows) {
      std::string token;
      do {
        const auto page = table_.ListVersions(model.name(), 1000, token);
        if (!page.ok()) return page.status();
        for (const auto& version : page->rows) states_.Learn(version);
        token = page->next_page_token;
      } while (!token.empty());
    }
    models_token = models->next_page_token;
  } while (!models_token.empty());

  const auto wanted = table_.ToLoad();
  if (!wanted.ok()) return wanted.status();
  for (const v1::ModelVersion& version : *wanted) {
    if (const auto name = VersionName::Parse(version.name())) states_.BeginLoad(*name);
  }
  loader_ = std::thread([this] { RunLoads(); });
  return absl::OkStatus();
}

void ModelRegistry::Drain() {
  {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
  }
  states_.Stop();
}

void ModelRegistry::Stop() {
  Drain();
  std::call_once(stopped_, [this] {
    if (loader_.joinable()) loader_.join();
    batcher_.Stop();
  });
}

absl::Status ModelRegistry::TakeTurn(const std::string& key, absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  const auto my_turn = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return draining_ || !under_way_.contains(key);
  };
  if (!mutex_.AwaitWithDeadline(absl::Condition(&my_turn), deadline)) {
    return MakeError(absl::StatusCode::kDeadlineExceeded, v1::DEADLINE_PASSED,
                     absl::StrCat(key, " is being loaded or unloaded by another call."));
  }
  if (draining_) return DrainingError();
  under_way_.insert(key);
  return absl::OkStatus();
}

void ModelRegistry::EndTurn(const std::string& key) {
  absl::MutexLock lock(&mutex_);
  under_way_.erase(key);
}

absl::StatusOr<v1::ModelVersion> ModelRegistry::Publish(const Publication& publication) {
  if (absl::Status status = TakeTurn(publication.key); !status.ok()) return status;
  const auto end = absl::MakeCleanup([&] { EndTurn(publication.key); });
  const auto version = PublishVersion(table_, data_, options_.trainer_path, publication);
  if (!version.ok()) return version.status();
  states_.Learn(*version);
  spdlog::info("{} is published", version->name());
  if (publication.load && !version->tasks().empty()) {
    // A failure is the version's state; it is in the log and in what Get answers.
    Load(version->name()).IgnoreError();
  }
  return Get(version->name());
}

absl::StatusOr<std::shared_ptr<const LoadedModel>> ModelRegistry::Acquire(const std::string& name) {
  return states_.Acquire(name);
}

absl::StatusOr<v1::ModelVersion> ModelRegistry::Load(const std::string& name, absl::Time deadline) {
  const auto version = table_.GetVersion(name);
  if (!version.ok()) return version.status();
  const VersionName exact = *VersionName::Parse(version->name());
  if (version->tasks().empty()) return VersionStates::HasNoTask(exact);
  absl::Status status = TakeTurn(version->name(), deadline);
  if (!status.ok()) return status;
  const auto end = absl::MakeCleanup([&] { EndTurn(version->name()); });
  status = table_.SetLoad(version->name(), true);
  if (!status.ok()) return status;
  states_.Learn(*version);  // a publication may be just about to say so
  states_.BeginLoad(exact);
  status = states_.AwaitLoaded(exact, deadline);
  if (!status.ok()) return status;
  return Get(version->name());
}

absl::StatusOr<v1::ModelVersion> ModelRegistry::Unload(const std::string& name) {
  const auto version = table_.GetVersion(name);
  if (!version.ok()) return version.status();
  const VersionName exact = *VersionName::Parse(version->name());
  absl::Status status = TakeTurn(version->name());
  if (!status.ok()) return status;
  const auto end = absl::MakeCleanup([&] { EndTurn(version->name()); });
  status = table_.SetLoad(version->name(), false);
  if (!status.ok()) return status;
  status = states_.AwaitLoaded(exact, absl::InfiniteFuture());
  if (ReasonOf(status) == v1::DRAINING) return status;
  ServedVersion served = states_.Withdraw(exact);
  if (served.model != nullptr) {
    served.model.reset();
    served.freed->WaitForNotification();
    spdlog::info("{} is unloaded", version->name());
  }
  return Get(version->name());
}

absl::Status ModelRegistry::Delete(const std::string& name) {
  if (absl::Status status = TakeTurn(name); !status.ok()) return status;
  const auto end = absl::MakeCleanup([&] { EndTurn(name); });
  if (absl::Status status = table_.DeleteVersion(name); !status.ok()) return status;
  if (const auto exact = VersionName::Parse(name)) states_.Forget(*exact);
  spdlog::info("{} is deleted", name);
  return RemoveAll(data_.model_version(name));
}

absl::StatusOr<v1::ModelVersion> ModelRegistry::Get(const std::string& name) {
  auto version = table_.GetVersion(name);
  if (version.ok()) states_.FillIn(*version);
  return version;
}

absl::StatusOr<Page<v1::ModelVersion>> ModelRegistry::ListVersions(const std::string& model,
                                                                   int page_size,
                                                                   const std::string& page_token) {
  auto page = table_.ListVersions(model, page_size, page_token);
  if (page.ok()) {
    for (auto& version : page->rows) states_.FillIn(version);
  }
  return page;
}

std::vector<std::string> ModelRegistry::LoadedVersions() const { return states_.Loaded(); }

void ModelRegistry::RunLoads() {
  while (const std::optional<VersionName> name = states_.NextToLoad()) {
    const absl::Time start = absl::Now();
    absl::StatusOr<ServedVersion> served = Open(*name);
    const absl::Duration duration = absl::Now() - start;
    metrics_.CountModelLoad(served.ok(), duration);
    if (served.ok()) {
      spdlog::info("{} is loaded ({:.1f} MB, {:.2f} s)", name->ToString(),
                   static_cast<double>(served->model->classifier->memory_bytes()) / 1e6,
                   absl::ToDoubleSeconds(duration));
    } else {
      spdlog::error("{} could not be loaded: {}", name->ToString(), served.status().ToString());
    }
    states_.EndLoad(*name, std::move(served));
  }
}

absl::StatusOr<ServedVersion> ModelRegistry::Open(const VersionName& name) {
  const auto version = table_.GetVersion(name.ToString());
  if (!version.ok()) return version.status();
  auto loaded = loads_.Load(*version);
  if (!loaded.ok()) return loaded.status();
  auto freed = std::make_shared<absl::Notification>();
  const std::shared_ptr<const LoadedModel> model(loaded->release(),
                                                 [freed](const LoadedModel* last) {
                                                   delete last;
                                                   freed->Notify();
                                                 });
  if (absl::Status status = WarmUp(model, batcher_); !status.ok()) return status;
  return ServedVersion{model, freed};
}

}  // namespace tasuki
