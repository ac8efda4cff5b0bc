#include "model/training/checkpoint.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>
#include <system_error>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "model/files/safetensors.h"

namespace tasuki {
namespace {

constexpr int kFormatVersion = 2;  // 1: without TrainingState.tokens_at_once and what follows
constexpr char kManifestName[] = "checkpoint.json";
constexpr char kWeightsName[] = "model.safetensors";
constexpr char kOptimizerName[] = "optimizer.safetensors";
constexpr char kAsideSuffix[] = ".aside";
constexpr char kDamagedName[] = "damaged";

absl::Status Changed(const std::string& message) {
  return MakeError(absl::StatusCode::kDataLoss, v1::FILE_CHANGED, message);
}

bool IsNewer(const internal::CheckpointManifest& manifest) {
  return manifest.format_version() > kFormatVersion;
}

// Faults that reading again will not cure.
bool IsBroken(const absl::Status& status) {
  return absl::IsDataLoss(status) || absl::IsNotFound(status) || absl::IsInvalidArgument(status);
}

// Copies the tensors of a file into `tensors`, which it must fit.
absl::Status ReadInto(const std::string& path, const WeightMap& tensors) {
  at::NoGradGuard no_grad;
  absl::StatusOr<std::unique_ptr<SafetensorsFile>> file = SafetensorsFile::Open(path);
  if (!file.ok()) return file.status();
  const std::map<std::string, TensorEntry>& entries = (*file)->tensors();
  if (entries.size() != tensors.size()) return Changed(absl::StrCat(path, ": of another training"));
  for (const auto& [name, tensor] : tensors) {
    const auto entry = entries.find(name);
    if (entry == entries.end() || entry->second.dtype != "F32" ||
        at::IntArrayRef(entry->second.shape) != tensor.sizes()) {
      return Changed(absl::StrCat(path, ": ", name, " is missing or of another shape"));
    }
    at::Tensor stored = at::empty(tensor.sizes(), at::kFloat);
    std::memcpy(stored.mutable_data_ptr(), entry->second.data, entry->second.size_bytes);
    tensor.copy_(stored);
  }
  return absl::OkStatus();
}

}  // namespace

std::string Checkpoints::DirectoryOf(int64_t step) const {
  return absl::StrCat(directory_, "/step-", step);
}

absl::StatusOr<std::vector<int64_t>> Checkpoints::Steps() const {
  absl::StatusOr<std::vector<std::string>> names = ListDirectory(directory_);
  if (!names.ok()) return names.status();
  std::vector<int64_t> steps;
  for (const std::string& name : *names) {
    absl::string_view number = name;
    int64_t step = 0;
    if (absl::ConsumePrefix(&number, "step-") && absl::SimpleAtoi(number, &step)) {
      steps.push_back(step);
    }
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

absl::Status Checkpoints::Check(int64_t step, internal::CheckpointManifest& manifest) const {
  const std::string directory = DirectoryOf(step);
  absl::Status status =
      ReadVersionedJson(absl::StrCat(directory, "/", kManifestName), kFormatVersion, manifest);
  if (!status.ok()) return status;
  if (manifest.work_sha256() != work_sha256_) return Changed("it belongs to another job");
  return CheckFiles(directory, {manifest.files().begin(), manifest.files().end()});
}

absl::StatusOr<std::optional<internal::CheckpointManifest>> Checkpoints::Newest(
    const std::function<void(const std::string&)>& tell) const {
  absl::StatusOr<std::vector<int64_t>> steps = Steps();
  if (!steps.ok()) return steps.status();
  for (const int64_t step : *steps) {
    internal::CheckpointManifest manifest, best;
    absl::Status status = Check(step, manifest);
    const int64_t best_step = manifest.state().best_step();
    if (status.ok() && best_step != 0 && best_step != step) {
      status = Annotate(Check(best_step, best),
                        absl::StrCat("the best checkpoint before it, step-", best_step, ": "));
    }
    if (status.ok()) return manifest;
    if (!IsBroken(status) || IsNewer(manifest) || IsNewer(best)) return status;
    if (absl::Status moved = SetAside(step); !moved.ok()) return moved;
    tell(absl::StrCat("Checkpoint step-", step, " cannot be used and is passed over: ",
                      status.message(), ". It is kept as ", directory_, "/", kDamagedName, "."));
  }
  return std::nullopt;
}

absl::Status Checkpoints::SetAside(int64_t step) const {
  const std::string damaged = absl::StrCat(directory_, "/", kDamagedName);
  if (absl::Status removed = RemoveAll(damaged); !removed.ok()) return removed;
  std::error_code error;
  std::filesystem::rename(DirectoryOf(step), damaged, error);
  return error ? SystemError(error.value(), "rename", DirectoryOf(step)) : absl::OkStatus();
}

absl::Status Checkpoints::ReadWeights(int64_t step, const WeightMap& weights) const {
  return ReadInto(absl::StrCat(DirectoryOf(step), "/", kWeightsName), weights);
}

absl::Status Checkpoints::ReadOptimizer(int64_t step, const WeightMap& state) const {
  return ReadInto(absl::StrCat(DirectoryOf(step), "/", kOptimizerName), state);
}

absl::Status Checkpoints::Save(int64_t step, const WeightMap& weights, const WeightMap& optimizer,
                               const internal::TrainingState& state) const {
  const std::string aside = absl::StrCat(directory_, "/checkpoint", kAsideSuffix);
  absl::Status status = RemoveAll(aside);
  if (status.ok()) status = MakeDirectories(aside);
  if (status.ok()) status = WriteTensors(absl::StrCat(aside, "/", kWeightsName), weights, {});
  if (status.ok()) status = WriteTensors(absl::StrCat(aside, "/", kOptimizerName), optimizer, {});
  if (!status.ok()) return status;

  absl::StatusOr<std::vector<v1::ModelFile>> files =
      DescribeFiles(aside, {kWeightsName, kOptimizerName});
  if (!files.ok()) return files.status();
  internal::CheckpointManifest manifest;
  manifest.set_format_version(kFormatVersion);
  manifest.set_step(step);
  manifest.set_work_sha256(work_sha256_);
  manifest.mutable_files()->Assign(files->begin(), files->end());
  *manifest.mutable_state() = state;
  status = WriteJson(absl::StrCat(aside, "/", kManifestName), manifest);
  if (status.ok()) status = ReplaceDirectory(aside, DirectoryOf(step));
  if (status.ok()) status = RemoveOld();
  return status;
}

absl::Status Checkpoints::RemoveOld() const {
  absl::StatusOr<std::vector<int64_t>> steps = Steps();
  if (!steps.ok()) return steps.status();
  std::set<int64_t> kept;
  for (size_t i = 0; i < steps->size() && i < 2; ++i) {
    kept.insert((*steps)[i]);
    internal::CheckpointManifest manifest;
    absl::Status status =
        ReadJson(absl::StrCat(DirectoryOf((*steps)[i]), "/", kManifestName), manifest);
    if (!status.ok()) return status;
    if (manifest.state().best_step() > 0) kept.insert(manifest.state().best_step());
  }
  for (const int64_t step : *steps) {
    if (kept.contains(step)) continue;
    if (absl::Status status = RemoveAll(DirectoryOf(step)); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace tasuki
