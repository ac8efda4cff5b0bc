#include "server/serving/version_states.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "server/serving/batcher.h"

namespace tasuki {
namespace {

absl::Status NotFound(const std::string& name) {
  return MakeError(absl::StatusCode::kNotFound, v1::RESOURCE_NOT_FOUND,
                   absl::StrCat(name, " does not exist; `tasuki model list` shows what does."),
                   {{"name", name}});
}

absl::Status NotLoaded(const VersionName& name, absl::string_view sentence) {
  return MakeError(absl::StatusCode::kFailedPrecondition, v1::MODEL_NOT_LOADED,
                   absl::StrCat(name.ToString(), sentence), {{"model_version", name.ToString()}});
}

}  // namespace

VersionStates::Entry* VersionStates::Find(const VersionName& name) {
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

bool VersionStates::BeginLoad(const VersionName& name) {
  absl::MutexLock lock(&mutex_);
  Entry* entry = Find(name);
  if (entry == nullptr) return false;
  if (entry->state == v1::ModelVersion::UNLOADED || entry->state == v1::ModelVersion::FAILED) {
    entry->state = v1::ModelVersion::LOADING;
    entry->error = absl::OkStatus();
    to_load_.push_back(name);
  }
  return true;
}

std::optional<VersionName> VersionStates::NextToLoad() {
  absl::MutexLock lock(&mutex_);
  const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || !to_load_.empty();
  };
  mutex_.Await(absl::Condition(&ready));
  if (stopping_) return std::nullopt;
  VersionName name = std::move(to_load_.front());
  to_load_.pop_front();
  return name;
}

void VersionStates::EndLoad(const VersionName& name, absl::StatusOr<ServedVersion> result) {
  absl::MutexLock lock(&mutex_);
  Entry* entry = Find(name);
  if (entry == nullptr) return;  // deleted meanwhile
  entry->state = result.ok() ? v1::ModelVersion::LOADED : v1::ModelVersion::FAILED;
  entry->error = result.status();
  if (result.ok()) entry->served = *std::move(result);
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

absl::StatusOr<std::shared_ptr<const LoadedModel>> VersionStates::Acquire(const std::string& name) {
  const auto exact = VersionName::Parse(name);
  absl::MutexLock lock(&mutex_);
  if (exact.has_value()) {
    const Entry* entry = Find(*exact);
    if (entry == nullptr) return NotFound(name);
    if (entry->served.model != nullptr) return entry->served.model;
    return WhyNot(*exact, *entry);
  }
  const auto model = models_.find(name);
  if (model == models_.end()) return NotFound(name);
  // If none is loaded, one that is on its way explains it best, else the newest.
  auto best = model->second.rbegin();
  for (auto version = model->second.rbegin(); version != model->second.rend(); ++version) {
    if (version->second.served.model != nullptr) return version->second.served.model;
    if (version->second.state == v1::ModelVersion::LOADING) best = version;
  }
  return WhyNot({name, best->first}, best->second);
}

void VersionStates::FillIn(v1::ModelVersion& version) {
  const auto name = VersionName::Parse(version.name());
  absl::MutexLock lock(&mutex_);
  const Entry* entry = name.has_value() ? Find(*name) : nullptr;
  version.set_state(entry != nullptr ? entry->state : v1::ModelVersion::UNLOADED);
  version.set_state_reason(entry != nullptr ? std::string(entry->error.message()) : "");
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

void VersionStates::Stop() {
  absl::MutexLock lock(&mutex_);
  stopping_ = true;
}

}  // namespace tasuki
