#include "server/serving/model_registry.h"

#include <malloc.h>

#include <set>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "server/store/store.h"
#include "spdlog/spdlog.h"

namespace tasuki {
namespace {

// Waits until the last request has its answer, and gives the memory back to the system. False if
// there is nothing to free.
bool Free(ServedVersion served) {
  if (served.model == nullptr) return false;
  served.model.reset();
  served.freed->WaitForNotification();
  malloc_trim(0);
  return true;
}

}  // namespace

ModelRegistry::ModelRegistry(Store& store, const DataDirectory& data, const ServingOptions& options,
                             Metrics& metrics)
    : table_(store.models()),
      aliases_(store.aliases()),
      data_(data),
      options_(options),
      metrics_(metrics),
      batcher_({options.max_batch_tokens, options.max_queue_tokens, options.max_batch_delay},
               metrics),
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
  const auto aliases = aliases_.All();
  if (!aliases.ok()) return aliases.status();
  // Where not all fit, those that aliases name come first, and their shadows last.
  for (const v1::ModelAlias& alias : *aliases) {
    states_.SetAlias(alias);
    if (const auto name = VersionName::Parse(alias.model_version())) {
      states_.BeginLoad(*name, VersionStates::Cause::kAtStart);
    }
  }
  for (const v1::ModelVersion& version : *wanted) {
    if (const auto name = VersionName::Parse(version.name())) {
      states_.BeginLoad(*name, VersionStates::Cause::kAtStart);
    }
  }
  for (const v1::ModelAlias& alias : *aliases) {
    if (const auto name = VersionName::Parse(alias.shadow_model_version())) {
      states_.BeginLoad(*name, VersionStates::Cause::kAtStart);
    }
  }
  loader_ = std::thread([this] { RunLoads(); });
  return absl::OkStatus();
}

void ModelRegistry::SetServingListener(ServingListener listener) {
  {
    absl::MutexLock lock(&serving_mutex_);
    serving_listener_ = std::move(listener);
    told_.clear();
  }
  TellServing();
}

void ModelRegistry::TellServing() {
  absl::MutexLock lock(&serving_mutex_);
  if (!serving_listener_) return;
  std::map<std::string, bool> names = states_.InService();
  for (const auto& [name, serving] : told_) names.emplace(name, false);  // those that are gone
  for (const auto& [name, serving] : names) {
    const auto told = told_.find(name);
    if (told == told_.end() || told->second != serving) serving_listener_(name, serving);
  }
  told_ = std::move(names);
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
  absl::StatusOr<v1::ModelVersion> version;
  {
    if (absl::Status status = TakeTurn(publication.key); !status.ok()) return status;
    const auto end = absl::MakeCleanup([&] { EndTurn(publication.key); });
    version = PublishVersion(table_, data_, options_.trainer_path, publication);
    if (!version.ok()) return version.status();
    states_.Learn(*version);
    spdlog::info("{} is published", version->name());
    if (publication.load && !version->tasks().empty()) {
      // A failure is the version's state; it is in the log and in what Get answers. The next start
      // tries it again, as its row says.
      Load(version->name()).IgnoreError();
    }
  }
  DeleteOldVersions(publication.model, version->name());
  const auto now = Get(version->name());
  return absl::IsNotFound(now.status()) ? version : now;  // newer ones may have come, and it gone
}

void ModelRegistry::DeleteOldVersions(const std::string& model, const std::string& published) {
  if (options_.keep_versions == 0) return;
  std::set<std::string> kept = {published};
  const auto aliases = aliases_.All();
  if (!aliases.ok()) return;
  for (const v1::ModelAlias& alias : *aliases) {
    kept.insert({alias.model_version(), alias.shadow_model_version()});
    if (alias.history_size() > 1) kept.insert(alias.history(1).model_version());  // to roll back to
  }
  int newer = 0;
  std::string token;
  do {
    const auto page = table_.ListVersions(model, 1000, token);
    if (!page.ok()) return;
    for (const v1::ModelVersion& version : page->rows) {
      if (newer++ < options_.keep_versions || kept.contains(version.name())) continue;
      absl::Status status = table_.CheckUnneeded(version.name());
      if (status.ok()) status = Unload(version.name()).status();
      if (status.ok()) status = Delete(version.name());
      // One that a job works with stays until a later publication.
      if (!status.ok())
        spdlog::info("{} is kept: {}", version.name(), std::string(status.message()));
    }
    token = page->next_page_token;
  } while (!token.empty());
}

void ModelRegistry::Acquire(const std::string& name, VersionStates::AcquireDone done) {
  states_.Acquire(name, std::move(done));
}

absl::Status ModelRegistry::LoadInTurn(const v1::ModelVersion& version, absl::Time deadline) {
  const VersionName exact = *VersionName::Parse(version.name());
  states_.Learn(version);  // a publication may be just about to say so
  states_.BeginLoad(exact);
  const absl::Status loaded = states_.AwaitLoaded(exact, deadline);
  TellServing();
  return loaded;
}

absl::StatusOr<v1::ModelVersion> ModelRegistry::Load(const std::string& name, absl::Time deadline) {
  const auto version = table_.GetVersion(name);
  if (!version.ok()) return version.status();
  if (version->tasks().empty())
    return VersionStates::HasNoTask(*VersionName::Parse(version->name()));
  absl::Status status = TakeTurn(version->name(), deadline);
  if (!status.ok()) return status;
  const auto end = absl::MakeCleanup([&] { EndTurn(version->name()); });
  status = LoadInTurn(*version, deadline);
  // What cannot be loaded now is not loaded after a restart either; what goes on is.
  if (!status.ok() && !absl::IsDeadlineExceeded(status)) return status;
  if (absl::Status set = table_.SetLoad(version->name(), true); !set.ok()) return set;
  if (!status.ok()) return status;
  return Get(version->name());
}

absl::Status ModelRegistry::UnloadInTurn(const std::string& version) {
  const VersionName exact = *VersionName::Parse(version);
  absl::Status status = states_.AwaitLoaded(exact, absl::InfiniteFuture());
  if (ReasonOf(status) == v1::DRAINING) return status;
  ServedVersion served = states_.Withdraw(exact);
  TellServing();
  if (Free(std::move(served))) spdlog::info("{} is unloaded", version);
  return absl::OkStatus();
}

absl::StatusOr<v1::ModelVersion> ModelRegistry::Unload(const std::string& name) {
  const auto version = table_.GetVersion(name);
  if (!version.ok()) return version.status();
  absl::Status status = TakeTurn(version->name());
  if (!status.ok()) return status;
  const auto end = absl::MakeCleanup([&] { EndTurn(version->name()); });
  if (status = aliases_.CheckUnnamed(version->name()); !status.ok()) return status;
  if (status = table_.SetLoad(version->name(), false); !status.ok()) return status;
  status = UnloadInTurn(version->name());
  if (!status.ok()) return status;
  return Get(version->name());
}

void ModelRegistry::Release(const std::string& version) {
  if (version.empty() || !TakeTurn(version).ok()) return;
  const auto end = absl::MakeCleanup([&] { EndTurn(version); });
  const auto aliases = aliases_.Of(version);
  if (!aliases.ok() || !aliases->empty()) return;
  const auto to_load = table_.IsToLoad(version);
  if (!to_load.ok() || *to_load) return;
  const absl::Status status = UnloadInTurn(version);
  if (!status.ok() && !absl::IsNotFound(status)) {
    spdlog::warn("{} could not be unloaded: {}", version, std::string(status.message()));
  }
}

absl::StatusOr<v1::ModelAlias> ModelRegistry::SetAlias(const std::string& name,
                                                       const v1::ModelAlias::Change& change,
                                                       absl::Time deadline) {
  if (absl::Status status = TakeTurn(name, deadline); !status.ok()) return status;
  const auto end = absl::MakeCleanup([&] { EndTurn(name); });
  return SetAliasInTurn(name, change, deadline);
}

absl::StatusOr<v1::ModelAlias> ModelRegistry::SetAliasInTurn(const std::string& name,
                                                             const v1::ModelAlias::Change& change,
                                                             absl::Time deadline) {
  const std::string& wanted = change.model_version();
  absl::Status status;
  const auto before = aliases_.Get(name);
  if (!before.ok() && !absl::IsNotFound(before.status())) return before.status();
  absl::StatusOr<v1::ModelAlias> alias;
  {
    // Nobody unloads or deletes it until the alias names it.
    if (status = TakeTurn(wanted, deadline); !status.ok()) return status;
    const auto end_version = absl::MakeCleanup([&] { EndTurn(wanted); });
    const auto version = table_.GetVersion(wanted);
    if (!version.ok()) return version.status();
    if (version->tasks().empty()) return VersionStates::HasNoTask(*VersionName::Parse(wanted));
    if (status = LoadInTurn(*version, deadline); !status.ok()) {
      return Annotate(status, absl::StrCat(name, " stays as it is: "));
    }
    alias = aliases_.Set(name, change);
    if (!alias.ok()) return alias.status();
    states_.SetAlias(*alias);
  }
  TellServing();
  metrics_.CountAliasChange();
  spdlog::info("{} is {}", name, wanted);
  if (before.ok() && before->model_version() != wanted) Release(before->model_version());
  return alias;
}

absl::StatusOr<v1::ModelAlias> ModelRegistry::RollbackAlias(const std::string& name,
                                                            absl::Time deadline) {
  if (absl::Status status = TakeTurn(name, deadline); !status.ok()) return status;
  const auto end = absl::MakeCleanup([&] { EndTurn(name); });
  const auto alias = aliases_.Get(name);
  if (!alias.ok()) return alias.status();
  if (alias->history_size() < 2) {
    return MakeError(absl::StatusCode::kFailedPrecondition, v1::NO_EARLIER_VERSION,
                     absl::StrCat(name, " named no other version before."));
  }
  v1::ModelAlias::Change change;
  change.set_model_version(alias->history(1).model_version());
  change.set_cause(v1::ModelAlias::Change::ROLLBACK);
  absl::StatusOr<v1::ModelAlias> changed = SetAliasInTurn(name, change, deadline);
  if (absl::IsNotFound(changed.status())) {
    return MakeError(
        absl::StatusCode::kFailedPrecondition, v1::NO_EARLIER_VERSION,
        absl::StrCat(change.model_version(), ", which ", name, " named before, was deleted."));
  }
  return changed;
}

absl::StatusOr<v1::ModelAlias> ModelRegistry::SetShadow(const std::string& name,
                                                        const std::string& version,
                                                        absl::Time deadline) {
  absl::Status status = TakeTurn(name, deadline);
  if (!status.ok()) return status;
  const auto end = absl::MakeCleanup([&] { EndTurn(name); });
  const auto before = aliases_.Get(name);
  if (!before.ok()) return before.status();
  absl::StatusOr<v1::ModelAlias> alias;
  if (version.empty()) {
    alias = aliases_.SetShadow(name, "");
    if (!alias.ok()) return alias.status();
    states_.SetAlias(*alias);
  } else {
    if (status = TakeTurn(version, deadline); !status.ok()) return status;
    const auto end_version = absl::MakeCleanup([&] { EndTurn(version); });
    const auto shadow = table_.GetVersion(version);
    if (!shadow.ok()) return shadow.status();
    if (shadow->tasks().empty()) return VersionStates::HasNoTask(*VersionName::Parse(version));
    if (status = LoadInTurn(*shadow, deadline); !status.ok()) return status;
    alias = aliases_.SetShadow(name, version);
    if (!alias.ok()) return alias.status();
    states_.SetAlias(*alias);
  }
  if (before->shadow_model_version() != version) Release(before->shadow_model_version());
  return alias;
}

absl::Status ModelRegistry::DeleteAlias(const std::string& name) {
  if (absl::Status status = TakeTurn(name); !status.ok()) return status;
  const auto end = absl::MakeCleanup([&] { EndTurn(name); });
  const auto alias = aliases_.Get(name);
  if (!alias.ok()) return alias.status();
  // Who asked for the alias may go on by the version.
  absl::Status status = table_.SetLoad(alias->model_version(), true);
  if (status.ok()) status = aliases_.Delete(name);
  if (!status.ok()) return status;
  states_.RemoveAlias(name);
  TellServing();
  Release(alias->shadow_model_version());
  return absl::OkStatus();
}

absl::Status ModelRegistry::Delete(const std::string& name) {
  if (absl::Status status = TakeTurn(name); !status.ok()) return status;
  const auto end = absl::MakeCleanup([&] { EndTurn(name); });
  const auto exact = VersionName::Parse(name);
  // What an alias could not wait for is loaded though nobody's row says so.
  if (exact.has_value() && states_.IsInMemory(*exact)) return LoadedError(name);
  if (absl::Status status = table_.DeleteVersion(name); !status.ok()) return status;
  if (exact.has_value()) states_.Forget(*exact);
  TellServing();
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

absl::StatusOr<VersionStates::InServiceVersion> ModelRegistry::Look(const std::string& name) const {
  return states_.Look(name);
}

void ModelRegistry::RunLoads() {
  while (const std::optional<VersionStates::ToLoad> load = states_.NextToLoad()) RunLoad(*load);
}

void ModelRegistry::RunLoad(const VersionStates::ToLoad& load) {
  const VersionName& name = load.name;
  const absl::Time start = absl::Now();
  const auto version = table_.GetVersion(name.ToString());
  const int64_t expected = version.ok() ? ExpectedBytes(*version) : 0;
  // What can never fit is tried, and fails: nobody is to think that it answers.
  if (expected <= options_.memory_limit_bytes &&
      !MakeRoom(expected, load.cause != VersionStates::Cause::kAtStart)) {
    spdlog::info("{} is not loaded at the start: there is no room for it; a request brings it",
                 name.ToString());
    if (states_.Defer(name)) return TellServing();
  }
  absl::StatusOr<ServedVersion> served = version.ok() ? Open(*version) : version.status();
  const absl::Duration duration = absl::Now() - start;
  // What was expected is not always what it takes.
  if (served.ok() && options_.memory_limit_bytes > 0) {
    const bool adapter = !served->model->shared_base_model_version.empty();
    const int64_t own = served->model->memory_bytes;
    // Alone it may be larger than the limit: then nothing makes room in vain.
    const bool fits = own <= options_.memory_limit_bytes;
    if (fits) MakeRoom(adapter ? own : 0, /*may_evict=*/true);
    if (const int64_t bytes = fits ? MemoryBytes() + (adapter ? own : 0) : own;
        bytes > options_.memory_limit_bytes) {
      Free(*std::move(served));
      served = MakeError(
          absl::StatusCode::kResourceExhausted, v1::OUT_OF_MEMORY,
          absl::StrFormat("%s takes %.2f MB of memory, more than the %.2f MB that the server gives "
                          "to all models.",
                          name.ToString(), static_cast<double>(bytes) / 1e6,
                          static_cast<double>(options_.memory_limit_bytes) / 1e6));
    }
  }
  if (!served.ok()) served = WithoutRoot(served.status());
  metrics_.CountModelLoad(served.ok(), duration);
  if (served.ok()) {
    spdlog::info("{} is loaded ({:.1f} MB, {:.2f} s)", name.ToString(),
                 static_cast<double>(served->model->memory_bytes) / 1e6,
                 absl::ToDoubleSeconds(duration));
  } else {
    spdlog::error("{} could not be loaded: {}", name.ToString(),
                  std::string(served.status().message()));
  }
  states_.EndLoad(name, std::move(served));
  TellServing();
}

// As callers may see it: which file, but not where the server keeps its data.
absl::Status ModelRegistry::WithoutRoot(const absl::Status& status) const {
  absl::Status shown(status.code(),
                     absl::StrReplaceAll(status.message(), {{data_.root() + "/", ""}}));
  status.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { shown.SetPayload(url, payload); });
  return shown;
}

// About what the weights of a version will take that are not in memory yet. The embedding and the
// head stay fp32.
int64_t ModelRegistry::ExpectedBytes(const v1::ModelVersion& version) const {
  const auto in_memory = loads_.WeightsInMemory();
  if (in_memory.contains(version.name())) return 0;
  if (version.has_lora() && in_memory.contains(version.base_model_version())) return 0;
  const int64_t bytes = options_.precision == Precision::kFp32   ? 4
                        : options_.precision == Precision::kBf16 ? 3
                                                                 : 2;
  return version.parameter_count() * bytes;
}

int64_t ModelRegistry::MemoryBytes() const {
  int64_t bytes = states_.AdapterBytes();
  for (const auto& [version, weights] : loads_.WeightsInMemory()) bytes += weights;
  return bytes;
}

bool ModelRegistry::MakeRoom(int64_t bytes, bool may_evict) {
  if (options_.memory_limit_bytes == 0) return true;
  while (MemoryBytes() + bytes > options_.memory_limit_bytes) {
    if (!may_evict) return false;
    auto evicted = states_.EvictLeastRecentlyUsed();
    if (!evicted.has_value()) break;
    metrics_.CountModelEviction();
    spdlog::info("{} makes room in memory; a request brings it back", evicted->first.ToString());
    Free(std::move(evicted->second));
  }
  return true;
}

absl::StatusOr<ServedVersion> ModelRegistry::Open(const v1::ModelVersion& version) {
  auto loaded = loads_.Load(version);
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
