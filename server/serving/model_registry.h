// Model versions: publishing, loading, answering. The fast path begins at Acquire.
//
// A version is loaded aside, verified (hashes of its manifest), warmed with one batch, and only then
// given out. Its handle keeps it in memory until the last request has been answered.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "model/t5/classifier.h"
#include "server/store/data_directory.h"
#include "server/store/model_table.h"
#include "tasuki/v1/models.pb.h"

namespace tasuki {

class Metrics;
class Batcher;

struct ServingOptions {
  int threads = 2;              // of a matrix product
  std::string device = "cpu";
  int max_batch_tokens = 4096;  // of one forward pass
  int max_queue_tokens = 65536; // waiting; more is RESOURCE_EXHAUSTED, QUEUE_FULL
  std::string trainer_path;     // `tasuki-trainer --check` opens strangers' files
};

// A loaded version: its classifier and its queue. Shared by requests; freed after the last one.
struct LoadedModel {
  std::string name;  // `models/{model}/versions/{version}`
  std::unique_ptr<const Classifier> classifier;
};

// Thread-safe.
class ModelRegistry {
 public:
  ModelRegistry(Store& store, const DataDirectory& data, const ServingOptions& options,
                Metrics& metrics);
  ~ModelRegistry();

  // Loads, in the background, every version that is to be loaded.
  void Start();
  // Refuses new work with UNAVAILABLE (DRAINING), answers what is queued, and joins threads.
  void Stop();

  // Publishes what lies in `directory` (it is moved) as the next version of `model`: idempotent for
  // `key`. `check` runs `tasuki-trainer --check` on it first (imports). `load`: loads it too, and
  // answers after that; a failure to load is the version's state, not an error.
  absl::StatusOr<v1::ModelVersion> Publish(const std::string& model, const std::string& directory,
                                           const std::string& key, const std::string& digest,
                                           bool check, bool load);
  // What models/{m} or models/{m}/versions/{n} answers now. NOT_FOUND; FAILED_PRECONDITION,
  // MODEL_NOT_LOADED (naming the call that loads); UNAVAILABLE, MODEL_LOADING.
  absl::StatusOr<std::shared_ptr<const LoadedModel>> Acquire(const std::string& name);
  // The batcher of the device.
  Batcher& batcher();

  absl::StatusOr<v1::ModelVersion> Load(const std::string& name);
  absl::StatusOr<v1::ModelVersion> Unload(const std::string& name);
  absl::Status Delete(const std::string& name);
  // The store's rows with the state in memory filled in.
  absl::StatusOr<v1::ModelVersion> Get(const std::string& name);
  absl::StatusOr<Page<v1::ModelVersion>> ListVersions(const std::string& model, int page_size,
                                                      const std::string& page_token);
  std::vector<std::string> LoadedVersions() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tasuki
