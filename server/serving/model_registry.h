// Model versions and aliases: publishing, loading, answering. The fast path begins at Acquire.
//
// A version is loaded aside by the registry's own thread, verified (hashes of its manifest), warmed
// with one batch, and only then given out. Its handle keeps it in memory until the last request has
// been answered. Which versions exist, which are to be loaded and what aliases name is in the
// store; what is loaded is in memory only, so Acquire never reads a disk. Where memory for models
// is limited, the least recently used version makes room for one that is asked for.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/serving/batcher.h"
#include "server/serving/loaded_model.h"
#include "server/serving/publication.h"
#include "server/serving/version_load.h"
#include "server/serving/version_states.h"
#include "server/store/alias_table.h"
#include "server/store/data_directory.h"
#include "server/store/model_table.h"
#include "tasuki/v1/models.pb.h"

namespace tasuki {

struct ServingOptions {
  int threads = 2;  // of a matrix product
  std::string device = "cpu";
  Precision precision = Precision::kFp32;
  int max_batch_tokens = 4096;   // of one forward pass
  int max_queue_tokens = 65536;  // waiting for one version; more is RESOURCE_EXHAUSTED, QUEUE_FULL
  int64_t memory_limit_bytes = 0;  // of the weights of all versions in memory; 0: none
  int keep_versions = 0;           // of each model, besides those that aliases name; 0: all
  absl::Duration max_batch_delay = absl::ZeroDuration();  // see BatcherOptions
  std::string trainer_path;  // `tasuki-trainer --check` opens strangers' files
};

// Thread-safe. Names of models are `models/{model}`, of versions
// `models/{model}/versions/{version}`.
class ModelRegistry {
 public:
  ModelRegistry(Store& store, const DataDirectory& data, const ServingOptions& options,
                Metrics& metrics);
  ~ModelRegistry();

  // Removes what a crash left of versions, learns from the store which exist, and loads in the
  // background those that are to be loaded. REQUIRES: called once, before everything else.
  absl::Status Start();
  // Has `listener` told of every name (of a version with tasks, a model or an alias) whether it is
  // in service, now and whenever that changes. It must not block, and outlives the registry's use.
  using ServingListener = std::function<void(const std::string& name, bool serving)>;
  void SetServingListener(ServingListener listener);
  // Ends calls that wait for a load with UNAVAILABLE (DRAINING), now and later; what is loaded goes
  // on answering.
  void Drain();
  // Drains, refuses new requests, answers what is queued, and joins threads.
  void Stop();

  // Publishes the next version of a model. Answers after it is loaded where `load` asks for that; a
  // failure to load is the version's state, not an error. INVALID_ARGUMENT, MODEL_INVALID.
  absl::StatusOr<v1::ModelVersion> Publish(const Publication& publication);

  // What `models/{m}` (its newest version in service), a version or an alias answers with. Never
  // blocks: `done` is called at once, or, for a version in STANDBY, by the loader's thread once it
  // is in memory. It must not block. NOT_FOUND; FAILED_PRECONDITION, MODEL_NOT_LOADED (naming the
  // call that loads); UNAVAILABLE, MODEL_LOADING or DRAINING.
  void Acquire(const std::string& name, VersionStates::AcquireDone done);
  // What a name means that is in service, in memory or not; nothing is loaded, and memory does not
  // look used by it. Errors as in Acquire.
  absl::StatusOr<VersionStates::InServiceVersion> Look(const std::string& name) const;
  // The batcher of the device.
  Batcher& batcher() { return batcher_; }

  // Loads a version (of `models/{m}`: the newest), now and after restarts, and answers once it is
  // loaded; after `deadline` DEADLINE_EXCEEDED, while the load goes on. NOT_FOUND;
  // FAILED_PRECONDITION if it has no task; else what loading it met. Load, Unload and Delete of a
  // version wait for each other: each answers what it made of it.
  absl::StatusOr<v1::ModelVersion> Load(const std::string& name,
                                        absl::Time deadline = absl::InfiniteFuture());
  // FAILED_PRECONDITION, RESOURCE_IN_USE while an alias names the version.
  absl::Status CheckUnnamed(const std::string& version) { return aliases_.CheckUnnamed(version); }
  // Gives a version out no more and answers after its last request, when its memory is free.
  // FAILED_PRECONDITION, RESOURCE_IN_USE while an alias names it.
  absl::StatusOr<v1::ModelVersion> Unload(const std::string& name);

  // See tasuki.v1.ModelService. Setting loads first; after `deadline` DEADLINE_EXCEEDED, and the
  // alias stays. The version that no alias names any more is unloaded after its last request,
  // unless Load, or its publication, asked for it.
  absl::StatusOr<v1::ModelAlias> SetAlias(const std::string& name,
                                          const v1::ModelAlias::Change& change,
                                          absl::Time deadline = absl::InfiniteFuture());
  absl::StatusOr<v1::ModelAlias> RollbackAlias(const std::string& name,
                                               absl::Time deadline = absl::InfiniteFuture());
  absl::StatusOr<v1::ModelAlias> SetShadow(const std::string& name, const std::string& version,
                                           absl::Time deadline = absl::InfiniteFuture());
  absl::Status DeleteAlias(const std::string& name);
  // NOT_FOUND; FAILED_PRECONDITION, RESOURCE_IN_USE.
  absl::Status Delete(const std::string& name);

  // The store's rows with the state in memory filled in.
  absl::StatusOr<v1::ModelVersion> Get(const std::string& name);
  absl::StatusOr<Page<v1::ModelVersion>> ListVersions(const std::string& model, int page_size,
                                                      const std::string& page_token);
  std::vector<std::string> LoadedVersions() const;
  // Of the weights in memory, those that are shared once.
  int64_t MemoryBytes() const;

 private:
  // Waits until nothing else is under way with `key`, a publication's or a version's name, until
  // EndTurn. UNAVAILABLE (DRAINING); DEADLINE_EXCEEDED.
  absl::Status TakeTurn(const std::string& key, absl::Time deadline = absl::InfiniteFuture());
  void EndTurn(const std::string& key);
  // REQUIRES: the turn of the alias.
  absl::StatusOr<v1::ModelAlias> SetAliasInTurn(const std::string& name,
                                                const v1::ModelAlias::Change& change,
                                                absl::Time deadline);
  absl::Status WithoutRoot(const absl::Status& status) const;
  // REQUIRES: the turn of the version. Answers once it is loaded, or why it is not.
  absl::Status LoadInTurn(const v1::ModelVersion& version, absl::Time deadline);
  // REQUIRES: the turn of the version.
  absl::Status UnloadInTurn(const std::string& version);
  // Unloads a version that an alias named, unless one still does, or it is to be loaded whatever
  // aliases say. Best effort.
  void Release(const std::string& version);
  // Deletes what is beyond keep_versions, but what was just published. Best effort.
  void DeleteOldVersions(const std::string& model, const std::string& published);

  // Tells the listener what changed.
  void TellServing();

  void RunLoads();
  void RunLoad(const VersionStates::ToLoad& load);
  int64_t ExpectedBytes(const v1::ModelVersion& version) const;
  // Evicts until `bytes` more fit into memory. False where none may be evicted and they do not.
  bool MakeRoom(int64_t bytes, bool may_evict);
  absl::StatusOr<ServedVersion> Open(const v1::ModelVersion& version);

  ModelTable& table_;
  AliasTable& aliases_;
  const DataDirectory& data_;
  const ServingOptions options_;
  Metrics& metrics_;
  Batcher batcher_;
  VersionLoader loads_;
  VersionStates states_;

  // Never held across the store, torch or a callback.
  absl::Mutex mutex_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<std::string> under_way_ ABSL_GUARDED_BY(mutex_);  // see TakeTurn

  absl::Mutex serving_mutex_;  // held while the listener is told
  ServingListener serving_listener_ ABSL_GUARDED_BY(serving_mutex_);
  std::map<std::string, bool> told_ ABSL_GUARDED_BY(serving_mutex_);

  std::once_flag stopped_;
  std::thread loader_;
};

}  // namespace tasuki
