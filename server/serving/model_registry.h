// Model versions: publishing, loading, answering. The fast path begins at Acquire.
//
// A version is loaded aside by the registry's own thread, verified (hashes of its manifest), warmed
// with one batch, and only then given out. Its handle keeps it in memory until the last request has
// been answered. Which versions exist and which are to be loaded is in the store; what is loaded is
// in memory only, so Acquire never reads a disk.
#pragma once

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
  std::string trainer_path;      // `tasuki-trainer --check` opens strangers' files
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
  // Ends calls that wait for a load with UNAVAILABLE (DRAINING), now and later; what is loaded goes
  // on answering.
  void Drain();
  // Drains, refuses new requests, answers what is queued, and joins threads.
  void Stop();

  // Publishes the next version of a model. Answers after it is loaded where `load` asks for that; a
  // failure to load is the version's state, not an error. INVALID_ARGUMENT, MODEL_INVALID.
  absl::StatusOr<v1::ModelVersion> Publish(const Publication& publication);

  // What `models/{m}` (its newest loaded version) or a version answers with now. Never blocks.
  // NOT_FOUND; FAILED_PRECONDITION, MODEL_NOT_LOADED (naming the call that loads); UNAVAILABLE,
  // MODEL_LOADING.
  absl::StatusOr<std::shared_ptr<const LoadedModel>> Acquire(const std::string& name);
  // The batcher of the device.
  Batcher& batcher() { return batcher_; }

  // Loads a version (of `models/{m}`: the newest), now and after restarts, and answers once it is
  // loaded; after `deadline` DEADLINE_EXCEEDED, while the load goes on. NOT_FOUND;
  // FAILED_PRECONDITION if it has no task; else what loading it met. Load, Unload and Delete of a
  // version wait for each other: each answers what it made of it.
  absl::StatusOr<v1::ModelVersion> Load(const std::string& name,
                                        absl::Time deadline = absl::InfiniteFuture());
  // Gives a version out no more and answers after its last request, when its memory is free.
  absl::StatusOr<v1::ModelVersion> Unload(const std::string& name);
  // NOT_FOUND; FAILED_PRECONDITION, RESOURCE_IN_USE.
  absl::Status Delete(const std::string& name);

  // The store's rows with the state in memory filled in.
  absl::StatusOr<v1::ModelVersion> Get(const std::string& name);
  absl::StatusOr<Page<v1::ModelVersion>> ListVersions(const std::string& model, int page_size,
                                                      const std::string& page_token);
  std::vector<std::string> LoadedVersions() const;

 private:
  // Waits until nothing else is under way with `key`, a publication's or a version's name, until
  // EndTurn. UNAVAILABLE (DRAINING); DEADLINE_EXCEEDED.
  absl::Status TakeTurn(const std::string& key, absl::Time deadline = absl::InfiniteFuture());
  void EndTurn(const std::string& key);
  void RunLoads();
  absl::StatusOr<ServedVersion> Open(const VersionName& name);

  ModelTable& table_;
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

  std::once_flag stopped_;
  std::thread loader_;
};

}  // namespace tasuki
