// Checkpoints: all that a training needs to go on as if it had not stopped. Includes torch.
//
//   step-N/model.safetensors      the weights that are trained, after N steps
//          optimizer.safetensors  Optimizer::state()
//          checkpoint.json        internal.CheckpointManifest, written last
//
// A directory is written aside and renamed, so a checkpoint is complete or absent. Kept are the
// newest two, and the best that either of them knows. One that turned out unusable is set aside as
// `damaged`, for people to look at; the next such one takes its place.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/t5/weights.h"
#include "tasuki/internal/files.pb.h"

namespace tasuki {

// The checkpoints of one job. Thread-compatible; one object a directory.
class Checkpoints {
 public:
  // `work_sha256` tells the job's own checkpoints from others'.
  Checkpoints(std::string directory, std::string work_sha256)
      : directory_(std::move(directory)), work_sha256_(std::move(work_sha256)) {}

  // The newest checkpoint whose files, and whose best, are as they were written; nullopt if there
  // is none. A newer one that cannot be used is set aside, and `tell` hears a sentence about it.
  // DATA_LOSS, FILE_CHANGED: it was written in a newer format.
  absl::StatusOr<std::optional<internal::CheckpointManifest>> Newest(
      const std::function<void(const std::string&)>& tell) const;

  // Copies the weights of a checkpoint into `weights`, and the optimizer's state into `state`.
  // DATA_LOSS, FILE_CHANGED if they are of other names or shapes.
  absl::Status ReadWeights(int64_t step, const WeightMap& weights) const;
  absl::Status ReadOptimizer(int64_t step, const WeightMap& state) const;

  // Writes the checkpoint of `step`, in place of one that is there, and removes those no longer
  // needed. Errors as in model/files/durable.h.
  absl::Status Save(int64_t step, const WeightMap& weights, const WeightMap& optimizer,
                    const internal::TrainingState& state) const;

 private:
  std::string DirectoryOf(int64_t step) const;
  absl::Status Check(int64_t step, internal::CheckpointManifest& manifest) const;
  absl::Status SetAside(int64_t step) const;
  absl::StatusOr<std::vector<int64_t>> Steps() const;  // newest first
  absl::Status RemoveOld() const;

  const std::string directory_;
  const std::string work_sha256_;
};

}  // namespace tasuki
