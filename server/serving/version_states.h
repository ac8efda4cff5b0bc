// Which versions exist, and what each is doing: the registry's memory.
//
//   UNLOADED ──▶ LOADING ──▶ LOADED ──▶ UNLOADED
//                   │ ▲
//                   ▼ │
//                  FAILED ──▶ UNLOADED
//
// Thread-safe; nothing here reads a disk.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "server/serving/loaded_model.h"
#include "server/serving/version_name.h"
#include "tasuki/v1/models.pb.h"

namespace tasuki {

// A model in service, and the news that its last handle is gone and its memory free.
struct ServedVersion {
  std::shared_ptr<const LoadedModel> model;
  std::shared_ptr<const absl::Notification> freed;
};

class VersionStates {
 public:
  void Learn(const v1::ModelVersion& version);
  void Forget(const VersionName& name);

  // UNLOADED or FAILED becomes LOADING and waits for NextToLoad; others stay. False if unknown.
  bool BeginLoad(const VersionName& name);
  // Blocks until there is one to load; nullopt after Stop.
  std::optional<VersionName> NextToLoad();
  // LOADING becomes LOADED or FAILED.
  void EndLoad(const VersionName& name, absl::StatusOr<ServedVersion> result);
  // Blocks while LOADING; then the error of a FAILED one. NOT_FOUND, DEADLINE_EXCEEDED, or
  // UNAVAILABLE (DRAINING) after Stop.
  absl::Status AwaitLoaded(const VersionName& name, absl::Time deadline);
  // LOADED or FAILED becomes UNLOADED; answers what was given out, empty if nothing.
  ServedVersion Withdraw(const VersionName& name);

  // See ModelRegistry::Acquire.
  absl::StatusOr<std::shared_ptr<const LoadedModel>> Acquire(const std::string& name);
  // Why a version without tasks does not answer. FAILED_PRECONDITION, MODEL_NOT_LOADED.
  static absl::Status HasNoTask(const VersionName& name);
  // Sets `state` and `state_reason`.
  void FillIn(v1::ModelVersion& version);
  std::vector<std::string> Loaded() const;

  // Ends all waiting, now and later.
  void Stop();

 private:
  struct Entry {
    bool has_tasks = false;
    v1::ModelVersion::State state = v1::ModelVersion::UNLOADED;
    absl::Status error;    // while FAILED
    ServedVersion served;  // while LOADED
  };
  using Versions = std::map<int64_t, Entry>;  // by number

  Entry* Find(const VersionName& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static absl::Status WhyNot(const VersionName& name, const Entry& entry);

  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<std::string, Versions> models_ ABSL_GUARDED_BY(mutex_);  // by `models/{model}`
  std::deque<VersionName> to_load_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tasuki
