// Which versions exist, what each is doing, and which of them aliases name: the registry's memory.
//
//   UNLOADED ──▶ LOADING ──▶ LOADED ──▶ UNLOADED      what was asked for
//                │ ▲ ▲ │         │
//                ▼ │ │ └──────┐  │                    what room for models allows
//              FAILED └───── STANDBY ◀┘
//
// A version in STANDBY is in service, but not in memory: a request to it has it loaded, and waits.
// Thread-safe; nothing here reads a disk.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "model/recipe/version_name.h"
#include "server/serving/loaded_model.h"
#include "tasuki/v1/models.pb.h"

namespace tasuki {

// A model in service, and the news that its last handle is gone and its memory free.
struct ServedVersion {
  std::shared_ptr<const LoadedModel> model;
  std::shared_ptr<const absl::Notification> freed;
};

// What a request gets: who answers it, and who answers beside it, or null.
struct AcquiredModel {
  std::shared_ptr<const LoadedModel> model;
  std::shared_ptr<const LoadedModel> shadow;
};

class VersionStates {
 public:
  using AcquireDone = std::function<void(absl::StatusOr<AcquiredModel>)>;
  // Why a version is to be loaded. kAtStart gives way to the others.
  enum class Cause { kAtStart, kAsked, kRequest };
  struct ToLoad {
    VersionName name;
    Cause cause = Cause::kAsked;
  };

  void Learn(const v1::ModelVersion& version);
  // REQUIRES: no request waits for it.
  void Forget(const VersionName& name);
  // An alias was made or changed: requests from now on see it.
  void SetAlias(const v1::ModelAlias& alias);
  void RemoveAlias(const std::string& name);

  // UNLOADED, FAILED or STANDBY becomes LOADING and waits for NextToLoad; others stay. False if
  // unknown.
  bool BeginLoad(const VersionName& name, Cause cause = Cause::kAsked);
  // Blocks until there is one to load; nullopt after Stop.
  std::optional<ToLoad> NextToLoad();
  // LOADING becomes LOADED or FAILED, and the requests that waited for that hear of it.
  void EndLoad(const VersionName& name, absl::StatusOr<ServedVersion> result);
  // LOADING becomes STANDBY, unless somebody has asked for it meanwhile: then false.
  bool Defer(const VersionName& name);
  // Blocks while LOADING; then the error of a FAILED one. NOT_FOUND, DEADLINE_EXCEEDED, or
  // UNAVAILABLE (DRAINING) after Stop.
  absl::Status AwaitLoaded(const VersionName& name, absl::Time deadline);
  // LOADED, FAILED or STANDBY becomes UNLOADED; answers what was given out, empty if nothing.
  ServedVersion Withdraw(const VersionName& name);
  // The least recently used LOADED version becomes STANDBY; nullopt if none is.
  std::optional<std::pair<VersionName, ServedVersion>> EvictLeastRecentlyUsed();
  // Or on its way, or in STANDBY.
  bool IsInMemory(const VersionName& name) const;
  // Bytes of the adapters of all that is LOADED and shares the weights of its base.
  int64_t AdapterBytes() const;

  struct InServiceVersion {
    VersionName name;
    std::shared_ptr<const LoadedModel> model;  // null while it is not in memory
  };
  // See ModelRegistry::Look and Acquire.
  absl::StatusOr<InServiceVersion> Look(const std::string& name) const;
  void Acquire(const std::string& name, AcquireDone done);
  // Why a version without tasks does not answer. FAILED_PRECONDITION, MODEL_NOT_LOADED.
  static absl::Status HasNoTask(const VersionName& name);
  // Sets what is known of it in memory: state, state_reason, memory, last use, aliases.
  void FillIn(v1::ModelVersion& version);
  std::vector<std::string> Loaded() const;
  // Every version with tasks, their models, and all aliases: whether a request to it is answered,
  // if need be after a load.
  std::map<std::string, bool> InService() const;

  // Ends all waiting, now and later.
  void Stop();

 private:
  struct Entry {
    bool has_tasks = false;
    v1::ModelVersion::State state = v1::ModelVersion::UNLOADED;
    absl::Status error;    // while FAILED
    ServedVersion served;  // while LOADED
    absl::Time last_use;   // while LOADED: a request's, or when it was loaded
    bool asked = false;    // while LOADING: not only because the server starts
    // While LOADING for a request: those that wait, each with its shadow's number, or 0. They keep
    // no version in memory: it may have to make room for this one.
    bool awaited = false;
    std::vector<std::pair<AcquireDone, int64_t>> waiting;

    // Whether a request to it is answered, if need be after a load.
    bool in_service() const {
      return state == v1::ModelVersion::LOADED || state == v1::ModelVersion::STANDBY || awaited;
    }
  };
  using Versions = std::map<int64_t, Entry>;  // by number
  struct Alias {
    int64_t version = 0;
    int64_t shadow = 0;  // 0: none
  };
  // Which version is meant by a name; its number, or why none is.
  struct Meant {
    VersionName name;
    const Entry* entry = nullptr;
    int64_t shadow = 0;  // number; 0: none
  };

  const Entry* See(const VersionName& name) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Entry* Find(const VersionName& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return const_cast<Entry*>(See(name));
  }
  absl::StatusOr<Meant> Resolve(const std::string& name) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The shadow, if it is in memory, which it then was used.
  std::shared_ptr<const LoadedModel> UseShadow(const std::string& model, int64_t shadow)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Queue(const VersionName& name, Entry& entry, Cause cause)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static absl::Status WhyNot(const VersionName& name, const Entry& entry);

  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<std::string, Versions> models_ ABSL_GUARDED_BY(mutex_);  // by `models/{model}`
  // By `models/{model}`, then by id.
  std::map<std::string, std::map<std::string, Alias>> aliases_ ABSL_GUARDED_BY(mutex_);
  std::deque<ToLoad> to_load_ ABSL_GUARDED_BY(mutex_);  // those of kAtStart last
  size_t waiting_ ABSL_GUARDED_BY(mutex_) = 0;          // requests that wait for a load
};

}  // namespace tasuki
