// From a version's directory to a model that answers.
//
// A version that a job with `lora` made answers by its adapter and its base: however many adapters
// of one base are loaded, and the base itself, its weights are in memory once, from the first of
// them to the last. Its own weights, into which the adapter was merged, serve only where the base
// was deleted or cannot be opened.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/serving/batcher.h"
#include "server/serving/loaded_model.h"
#include "server/store/data_directory.h"
#include "server/store/model_table.h"
#include "tasuki/v1/models.pb.h"

namespace tasuki {

class VersionLoader {
 public:
  VersionLoader(ModelTable& table, const DataDirectory& data, const ClassifierOptions& options,
                int64_t queue_limit_tokens, Metrics& metrics)
      : table_(table),
        data_(data),
        options_(options),
        queue_limit_tokens_(queue_limit_tokens),
        metrics_(metrics) {}

  // Verifies the hash of every file that it opens, and loads them. DATA_LOSS, FILE_CHANGED; else as
  // Classifier::Load. Blocks; one thread at a time.
  absl::StatusOr<std::unique_ptr<LoadedModel>> Load(const v1::ModelVersion& version);

  // Bytes of the weights that are in memory, by the version that they are of, whether it is loaded
  // itself or adapters of it are; those of adapters are not among them. Any thread.
  std::map<std::string, int64_t> WeightsInMemory() const;

 private:
  absl::StatusOr<std::unique_ptr<Classifier>> LoadAdapter(const v1::ModelVersion& version);
  // The version's weights, as they are in memory already or from its directory.
  absl::StatusOr<std::shared_ptr<const LoadedBase>> Base(const v1::ModelVersion& version);
  // What a version has beside its base, or beside that of its adapter.
  absl::StatusOr<std::unique_ptr<Classifier>> Open(const v1::ModelVersion& version,
                                                   std::shared_ptr<const LoadedBase> base,
                                                   bool adapter);

  ModelTable& table_;
  const DataDirectory& data_;
  const ClassifierOptions options_;
  const int64_t queue_limit_tokens_;
  Metrics& metrics_;

  mutable absl::Mutex mutex_;
  // By the names of versions, whose numbers are never used again.
  std::map<std::string, std::weak_ptr<const LoadedBase>> bases_ ABSL_GUARDED_BY(mutex_);
};

// Has `batcher` answer one text for each task, so that the first caller finds everything warm.
absl::Status WarmUp(const std::shared_ptr<const LoadedModel>& model, Batcher& batcher);

}  // namespace tasuki
