#include "server/serving/publication.h"

#include <filesystem>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "google/protobuf/util/time_util.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "model/files/model_directory.h"
#include "model/recipe/recipe.h"
#include "model/recipe/version_name.h"
#include "server/serving/model_check.h"
#include "spdlog/spdlog.h"

namespace tasuki {
namespace {

// Checks an import and writes its tasuki.json: tasks may come with it (an export of another
// server), lineage may not, since the names would mean something else here.
absl::Status Adopt(const Publication& publication, const std::string& trainer_path) {
  const std::string& directory = publication.directory;
  const absl::StatusOr<int64_t> weights =
      CheckInChildProcess(trainer_path, directory, publication.cancelled);
  if (!weights.ok()) return weights.status();
  absl::StatusOr<internal::ModelManifest> manifest = ReadManifest(directory);
  if (absl::IsNotFound(manifest.status())) manifest = internal::ModelManifest();
  absl::Status status = manifest.status();
  Faults faults;
  if (status.ok()) {
    ResolveManifest(*manifest, faults);
    status = faults.ToStatus();
  }
  if (status.ok()) {
    // An adapter is of a base that this server does not know: it stays behind, as lineage does.
    std::vector<v1::ModelFile> files(manifest->files().begin(), manifest->files().end());
    std::erase_if(files, [](const v1::ModelFile& file) { return IsAdapterFile(file.name()); });
    status = CheckFiles(directory, files);
  }
  if (!status.ok()) {
    return MakeError(absl::StatusCode::kInvalidArgument, v1::MODEL_INVALID,
                     absl::StrCat(kManifestName, " does not fit the files: ",
                                  absl::StrReplaceAll(status.message(), {{directory + "/", ""}})));
  }
  manifest->clear_training_job();
  manifest->clear_base_model_version();
  manifest->clear_lora();
  manifest->set_parameter_count(*weights);
  return WriteManifest(directory, *std::move(manifest));
}

absl::StatusOr<v1::ModelVersion> Describe(const std::string& name, const std::string& directory) {
  absl::StatusOr<internal::ModelManifest> manifest = ReadManifest(directory);
  if (!manifest.ok()) return manifest.status();
  absl::StatusOr<std::vector<v1::ModelFile>> own = DescribeFiles(directory, {kManifestName});
  if (!own.ok()) return own.status();
  v1::ModelVersion version;
  version.set_name(name);
  version.set_state(v1::ModelVersion::UNLOADED);
  version.mutable_tasks()->Swap(manifest->mutable_tasks());
  version.set_parameter_count(manifest->parameter_count());
  version.set_max_input_tokens(manifest->max_input_tokens());
  version.set_training_job(manifest->training_job());
  version.set_base_model_version(manifest->base_model_version());
  if (manifest->has_lora()) version.mutable_lora()->Swap(manifest->mutable_lora());
  version.mutable_evaluations()->Swap(manifest->mutable_evaluations());
  version.mutable_calibrations()->Swap(manifest->mutable_calibrations());
  *version.mutable_create_time() = google::protobuf::util::TimeUtil::GetCurrentTime();
  version.mutable_files()->Swap(manifest->mutable_files());
  *version.add_files() = own->front();
  int64_t bytes = 0;
  for (const auto& file : version.files()) bytes += file.size_bytes();
  version.set_size_bytes(bytes);
  return version;
}

}  // namespace

absl::StatusOr<v1::ModelVersion> PublishVersion(ModelTable& table, const DataDirectory& data,
                                                const std::string& trainer_path,
                                                const Publication& publication) {
  absl::StatusOr<ModelTable::Reservation> reserved =
      table.Reserve(publication.model, publication.key, publication.digest);
  if (!reserved.ok()) return reserved.status();
  if (reserved->published) return table.GetVersion(reserved->name);

  const std::string place = data.model_version(reserved->name);
  std::error_code error;
  if (!std::filesystem::exists(place, error)) {
    absl::Status status = publication.check ? Adopt(publication, trainer_path) : absl::OkStatus();
    if (status.ok()) status = MakeDirectories(std::filesystem::path(place).parent_path());
    if (status.ok()) status = PublishDirectory(publication.directory, place);
    if (!status.ok()) {
      // An import that failed leaves nothing; a job keeps its number for the next attempt.
      if (publication.check) table.Release(reserved->name).IgnoreError();
      return status;
    }
  }
  absl::StatusOr<v1::ModelVersion> version = Describe(reserved->name, place);
  if (!version.ok()) return version.status();
  return table.Publish(*version, publication.load && !version->tasks().empty());
}

void SweepVersions(ModelTable& table, const DataDirectory& data) {
  absl::Status status = table.ReleaseAbandoned();
  const auto models = ListDirectory(data.models());
  for (size_t i = 0; status.ok() && models.ok() && i < models->size(); ++i) {
    const auto numbers = ListDirectory(absl::StrCat(data.models(), "/", (*models)[i]));
    for (size_t j = 0; status.ok() && numbers.ok() && j < numbers->size(); ++j) {
      VersionName version{absl::StrCat("models/", (*models)[i])};
      if (!absl::SimpleAtoi((*numbers)[j], &version.version)) continue;
      const std::string name = version.ToString();
      const auto forgotten = table.IsForgotten(name);
      status = forgotten.status();
      if (!status.ok() || !*forgotten) continue;
      spdlog::info("{} is no version any more: {} is removed", name, data.model_version(name));
      status = RemoveAll(data.model_version(name));
    }
  }
  if (!status.ok()) spdlog::warn("Not all old versions were removed: {}", status.ToString());
}

}  // namespace tasuki
