#include "server/serving/version_states.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "google/protobuf/util/time_util.h"
#include "model/errors/errors.h"
#include "server/serving/batcher.h"

namespace tasuki {
namespace {

// Requests that may wait for loads; each is held in memory meanwhile.
constexpr size_t kMaxWaiting = 1024;

absl::Status NotFound(const std::string& name) {
  return MakeError(absl::StatusCode::kNotFound, v1::RESOURCE_NOT_FOUND,
                   absl::StrCat(name, " does not exist; `tasuki model list` shows what does."),
                   {{"name", name}});
}

absl::Status NoSuchAlias(const AliasName& name) {
  return MakeError(absl::StatusCode::kNotFound, v1::RESOURCE_NOT_FOUND,
                   absl::StrCat(name.ToString(), " does not exist; `tasuki alias list ",
                                absl::StripPrefix(name.model, "models/"), "` shows what does."),
                   {{"name", name.ToString()}});
}

absl::Status NotLoaded(const VersionName& name, absl::string_view sentence) {
  return MakeError(absl::StatusCode::kFailedPrecondition, v1::MODEL_NOT_LOADED,
                   absl::StrCat(name.ToString(), sentence), {{"model_version", name.ToString()}});
}

}  // namespace

const VersionStates::Entry* VersionStates::See(const VersionName& name) const {
  const auto model = models_.find(name.model);
  if (model == models_.end()) return nullptr;
  const auto version = model->second.find(name.version);
  return version == model->second.end() ? nullptr : &version->second;
}

void VersionStates::Learn(const v1::ModelVersion& version) {
  const auto name = VersionName::Parse(version.name());
  if (!name.has_value()) return;
  absl::MutexLock lock(&mutex_);
  models_[name->model][name->version].has_tasks = !version.tasks().empty();
}

void VersionStates::Forget(const VersionName& name) {
  absl::MutexLock lock(&mutex_);
  const auto model = models_.find(name.model);
  if (model == models_.end()) return;
  model->second.erase(name.version);
  if (model->second.empty()) models_.erase(model);
}

void VersionStates::SetAlias(const v1::ModelAlias& alias) {
  const auto name = AliasName::Parse(alias.name());
  const auto version = VersionName::Parse(alias.model_version());
  const auto shadow = VersionName::Parse(alias.shadow_model_version());
  if (!name.has_value() || !version.has_value()) return;
  absl::MutexLock lock(&mutex_);
  const bool has_shadow = shadow.has_value() && shadow->version != version->version;
  aliases_[name->model][name->alias] = {version->version, has_shadow ? shadow->version : 0};
}

void VersionStates::RemoveAlias(const std::string& name) {
  const auto parsed = AliasName::Parse(name);
  if (!parsed.has_value()) return;
  absl::MutexLock lock(&mutex_);
  const auto model = aliases_.find(parsed->model);
  if (model == aliases_.end()) return;
  model->second.erase(parsed->alias);
  if (model->second.empty()) aliases_.erase(model);
}

void VersionStates::Queue(const VersionName& name, Entry& entry, Cause cause) {
  entry.state = v1::ModelVersion::LOADING;
  entry.error = absl::OkStatus();
  entry.asked = cause != Cause::kAtStart;
  entry.awaited = cause == Cause::kRequest;
  const auto first_at_start =
      std::find_if(to_load_.begin(), to_load_.end(),
                   [](const ToLoad& load) { return load.cause == Cause::kAtStart; });
  to_load_.insert(cause == Cause::kAtStart ? to_load_.end() : first_at_start, {name, cause});
}

bool VersionStates::BeginLoad(const VersionName& name, Cause cause) {
  absl::MutexLock lock(&mutex_);
  Entry* entry = Find(name);
  if (entry == nullptr) return false;
  if (entry->state == v1::ModelVersion::LOADING) {
    entry->asked |= cause != Cause::kAtStart;
  } else if (entry->state != v1::ModelVersion::LOADED) {
    Queue(name, *entry, cause);
  }
  return true;
}

std::optional<VersionStates::ToLoad> VersionStates::NextToLoad() {
  absl::MutexLock lock(&mutex_);
  const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || !to_load_.empty();
  };
  mutex_.Await(absl::Condition(&ready));
  if (stopping_) return std::nullopt;
  ToLoad load = std::move(to_load_.front());
  to_load_.pop_front();
  return load;
}

void VersionStates::EndLoad(const VersionName& name, absl::StatusOr<ServedVersion> result) {
  std::vector<std::pair<AcquireDone, absl::StatusOr<AcquiredModel>>> answers;
  {
    absl::MutexLock lock(&mutex_);
    Entry* entry = Find(name);
    if (entry == nullptr) return;  // deleted meanwhile
    entry->state = result.ok() ? v1::ModelVersion::LOADED : v1::ModelVersion::FAILED;
    entry->error = result.status();
    if (result.ok()) {
      entry->served = *std::move(result);
      entry->last_use = absl::Now();
    }
    entry->awaited = false;
    for (auto& [done, shadow] : std::exchange(entry->waiting, {})) {
      --waiting_;
      if (entry->served.model != nullptr) {
        answers.emplace_back(std::move(done),
                             AcquiredModel{entry->served.model, UseShadow(name.model, shadow)});
      } else {
        answers.emplace_back(std::move(done), WhyNot(name, *entry));
      }
    }
  }
  for (auto& [done, answer] : answers) done(std::move(answer));
}

bool VersionStates::Defer(const VersionName& name) {
  absl::MutexLock lock(&mutex_);
  Entry* entry = Find(name);
  if (entry == nullptr) return true;
  if (entry->asked) return false;
  entry->state = v1::ModelVersion::STANDBY;
  return true;
}

absl::Status VersionStates::AwaitLoaded(const VersionName& name, absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  const auto settled = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const Entry* entry = Find(name);
    return stopping_ || entry == nullptr || entry->state != v1::ModelVersion::LOADING;
  };
  if (!mutex_.AwaitWithDeadline(absl::Condition(&settled), deadline)) {
    return MakeError(absl::StatusCode::kDeadlineExceeded, v1::DEADLINE_PASSED,
                     absl::StrCat(name.ToString(), " is still being loaded; `tasuki model get ",
                                  name.Short(), "` shows when it is done."));
  }
  const Entry* entry = Find(name);
  if (entry == nullptr) return NotFound(name.ToString());
  if (entry->state == v1::ModelVersion::LOADING) return DrainingError();
  return entry->error;
}

ServedVersion VersionStates::Withdraw(const VersionName& name) {
  absl::MutexLock lock(&mutex_);
  Entry* entry = Find(name);
  if (entry == nullptr || entry->state == v1::ModelVersion::LOADING) return {};
  entry->state = v1::ModelVersion::UNLOADED;
  entry->error = absl::OkStatus();
  return std::exchange(entry->served, {});
}

std::optional<std::pair<VersionName, ServedVersion>> VersionStates::EvictLeastRecentlyUsed() {
  absl::MutexLock lock(&mutex_);
  VersionName name;
  Entry* oldest = nullptr;
  for (auto& [model, versions] : models_) {
    for (auto& [number, entry] : versions) {
      if (entry.state != v1::ModelVersion::LOADED) continue;
      if (oldest != nullptr && oldest->last_use <= entry.last_use) continue;
      oldest = &entry;
      name = {model, number};
    }
  }
  if (oldest == nullptr) return std::nullopt;
  oldest->state = v1::ModelVersion::STANDBY;
  return std::make_pair(name, std::exchange(oldest->served, {}));
}

bool VersionStates::IsInMemory(const VersionName& name) const {
  absl::MutexLock lock(&mutex_);
  const Entry* entry = See(name);
  return entry != nullptr &&
         (entry->state == v1::ModelVersion::LOADING || entry->state == v1::ModelVersion::LOADED ||
          entry->state == v1::ModelVersion::STANDBY);
}

int64_t VersionStates::AdapterBytes() const {
  absl::MutexLock lock(&mutex_);
  int64_t bytes = 0;
  for (const auto& [name, versions] : models_) {
    for (const auto& [number, entry] : versions) {
      const LoadedModel* model = entry.served.model.get();
      if (model != nullptr && !model->shared_base_model_version.empty()) {
        bytes += model->memory_bytes;
      }
    }
  }
  return bytes;
}

absl::Status VersionStates::HasNoTask(const VersionName& name) {
  return NotLoaded(name,
                   " is a base model without a task and cannot classify; fine-tune it first "
                   "(`tasuki job submit`).");
}

absl::Status VersionStates::WhyNot(const VersionName& name, const Entry& entry) {
  if (entry.state == v1::ModelVersion::LOADING) {
    return MakeError(absl::StatusCode::kUnavailable, v1::MODEL_LOADING,
                     absl::StrCat(name.ToString(), " is being loaded; try again in a moment."),
                     {{"model_version", name.ToString()}});
  }
  if (!entry.has_tasks) return HasNoTask(name);
  const std::string command = absl::StrCat("`tasuki model load ", name.Short(), "`");
  if (entry.state == v1::ModelVersion::FAILED) {
    return NotLoaded(name, absl::StrCat(" could not be loaded: ", entry.error.message(),
                                        " To try again: ", command, "."));
  }
  return NotLoaded(name, absl::StrCat(" is not loaded; load it with ", command, "."));
}

absl::StatusOr<VersionStates::Meant> VersionStates::Resolve(const std::string& name) const {
  if (const auto exact = VersionName::Parse(name)) {
    const Entry* entry = See(*exact);
    if (entry == nullptr) return NotFound(name);
    return Meant{*exact, entry};
  }
  if (const auto parsed = AliasName::Parse(name)) {
    const auto model = aliases_.find(parsed->model);
    if (model == aliases_.end()) return NoSuchAlias(*parsed);
    const auto alias = model->second.find(parsed->alias);
    if (alias == model->second.end()) return NoSuchAlias(*parsed);
    Meant meant{{parsed->model, alias->second.version}};
    meant.entry = See(meant.name);
    if (meant.entry == nullptr) return NotFound(name);
    meant.shadow = alias->second.shadow;
    return meant;
  }
  const auto model = models_.find(name);
  if (model == models_.end()) return NotFound(name);
  // If none is in service, one that is on its way explains it best, else the newest.
  auto best = model->second.rbegin();
  for (auto version = model->second.rbegin(); version != model->second.rend(); ++version) {
    const Entry& entry = version->second;
    if (entry.in_service()) {
      best = version;
      break;
    }
    if (entry.state == v1::ModelVersion::LOADING) best = version;
  }
  if (best->second.has_tasks && best->second.state == v1::ModelVersion::UNLOADED) {
    const std::string id(absl::StripPrefix(name, "models/"));
    return MakeError(
        absl::StatusCode::kFailedPrecondition, v1::MODEL_NOT_LOADED,
        absl::StrCat("No version of ", name, " is in service; `tasuki model list ", id,
                     "` shows them, and `tasuki model load ", id, "@VERSION` loads one."),
        {{"model", name}});
  }
  return Meant{{name, best->first}, &best->second};
}

std::shared_ptr<const LoadedModel> VersionStates::UseShadow(const std::string& model,
                                                            int64_t shadow) {
  Entry* entry = shadow == 0 ? nullptr : Find({model, shadow});
  if (entry == nullptr || entry->served.model == nullptr) return nullptr;
  entry->last_use = absl::Now();
  return entry->served.model;
}

absl::StatusOr<VersionStates::InServiceVersion> VersionStates::Look(const std::string& name) const {
  absl::MutexLock lock(&mutex_);
  absl::StatusOr<Meant> meant = Resolve(name);
  if (!meant.ok()) return meant.status();
  const Entry& entry = *meant->entry;
  if (!entry.in_service()) return WhyNot(meant->name, entry);
  return InServiceVersion{meant->name, entry.served.model};
}

void VersionStates::Acquire(const std::string& name, AcquireDone done) {
  absl::StatusOr<AcquiredModel> result;
  {
    absl::MutexLock lock(&mutex_);
    absl::StatusOr<Meant> meant = Resolve(name);
    if (!meant.ok()) {
      result = meant.status();
    } else if (Entry& entry = *Find(meant->name); entry.served.model != nullptr) {
      entry.last_use = absl::Now();
      result = AcquiredModel{entry.served.model, UseShadow(meant->name.model, meant->shadow)};
    } else if (stopping_) {
      result = DrainingError();
    } else if ((entry.state == v1::ModelVersion::STANDBY || entry.awaited) &&
               waiting_ < kMaxWaiting) {
      if (entry.state == v1::ModelVersion::STANDBY) Queue(meant->name, entry, Cause::kRequest);
      entry.waiting.emplace_back(std::move(done), meant->shadow);
      ++waiting_;
      return;
    } else {
      // Of those that do not fit among the waiting, too: it is about to be loaded.
      Entry loading;
      loading.state = v1::ModelVersion::LOADING;
      result = WhyNot(meant->name, entry.state == v1::ModelVersion::STANDBY ? loading : entry);
    }
  }
  done(std::move(result));
}

void VersionStates::FillIn(v1::ModelVersion& version) {
  const auto name = VersionName::Parse(version.name());
  if (!name.has_value()) return;
  absl::MutexLock lock(&mutex_);
  const Entry* entry = Find(*name);
  version.set_state(entry != nullptr ? entry->state : v1::ModelVersion::UNLOADED);
  version.set_state_reason(entry != nullptr ? std::string(entry->error.message()) : "");
  if (entry != nullptr && entry->served.model != nullptr) {
    version.set_memory_bytes(entry->served.model->memory_bytes);
    version.set_shared_base_model_version(entry->served.model->shared_base_model_version);
    *version.mutable_last_use_time() = google::protobuf::util::TimeUtil::MicrosecondsToTimestamp(
        absl::ToUnixMicros(entry->last_use));
  }
  const auto model = aliases_.find(name->model);
  if (model == aliases_.end()) return;
  for (const auto& [id, alias] : model->second) {
    if (alias.version == name->version || alias.shadow == name->version) {
      version.add_aliases(AliasName{name->model, id}.ToString());
    }
  }
}

std::vector<std::string> VersionStates::Loaded() const {
  absl::MutexLock lock(&mutex_);
  std::vector<std::string> names;
  for (const auto& [model, versions] : models_) {
    for (const auto& [number, entry] : versions) {
      if (entry.served.model != nullptr) names.push_back(VersionName{model, number}.ToString());
    }
  }
  return names;
}

std::map<std::string, bool> VersionStates::InService() const {
  absl::MutexLock lock(&mutex_);
  std::map<std::string, bool> names;
  for (const auto& [model, versions] : models_) {
    for (const auto& [number, entry] : versions) {
      if (!entry.has_tasks) continue;
      names[VersionName{model, number}.ToString()] = entry.in_service();
      names[model] |= entry.in_service();
    }
  }
  for (const auto& [model, aliases] : aliases_) {
    for (const auto& [id, alias] : aliases) {
      names[AliasName{model, id}.ToString()] = names[VersionName{model, alias.version}.ToString()];
    }
  }
  return names;
}

void VersionStates::Stop() {
  decltype(Entry::waiting) waiting;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    for (auto& [model, versions] : models_) {
      for (auto& [number, entry] : versions) {
        std::move(entry.waiting.begin(), entry.waiting.end(), std::back_inserter(waiting));
        entry.waiting.clear();
      }
    }
    waiting_ = 0;
  }
  for (auto& [done, shadow] : waiting) done(DrainingError());
}

}  // namespace tasuki
