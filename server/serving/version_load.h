// From a version's directory to a model that answers.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "server/serving/batcher.h"
#include "server/serving/loaded_model.h"
#include "tasuki/v1/models.pb.h"

namespace tasuki {

// Verifies the hash of every file and loads them. DATA_LOSS, FILE_CHANGED; else as
// Classifier::Load. Blocks; any thread.
absl::StatusOr<std::unique_ptr<LoadedModel>> LoadVersion(const v1::ModelVersion& version,
                                                         const std::string& directory,
                                                         const ClassifierOptions& options,
                                                         int64_t queue_limit_tokens,
                                                         Metrics& metrics);

// Has `batcher` answer one text for each task, so that the first caller finds everything warm.
absl::Status WarmUp(const std::shared_ptr<const LoadedModel>& model, Batcher& batcher);

}  // namespace tasuki
