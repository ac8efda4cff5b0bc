#include "model/files/model_directory.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "google/protobuf/util/time_util.h"
#include "model/files/durable.h"

namespace tasuki {
namespace {

constexpr absl::string_view kNames[] = {
    "config.json",    "generation_config.json",  "model.safetensors",
    "spiece.model",   "tokenizer_config.json",   "model.safetensors.index.json",
    "tokenizer.json", "special_tokens_map.json", "added_tokens.json",
};
constexpr const char* kAdapterFiles[] = {"adapter/adapter_config.json",
                                         "adapter/adapter_model.safetensors"};

bool TakeFiveDigits(absl::string_view& name) {
  if (name.size() < 5 || !std::all_of(name.begin(), name.begin() + 5, absl::ascii_isdigit)) {
    return false;
  }
  name.remove_prefix(5);
  return true;
}

}  // namespace

bool IsModelFileName(absl::string_view name) {
  if (name == kManifestName) return true;
  if (std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames)) return true;
  return absl::ConsumePrefix(&name, "model-") && TakeFiveDigits(name) &&
         absl::ConsumePrefix(&name, "-of-") && TakeFiveDigits(name) && name == ".safetensors";
}

bool IsAdapterFile(absl::string_view name) {
  return std::find(std::begin(kAdapterFiles), std::end(kAdapterFiles), name) !=
         std::end(kAdapterFiles);
}

absl::Status WriteManifest(const std::string& directory, internal::ModelManifest manifest) {
  absl::StatusOr<std::vector<std::string>> names = ListDirectory(directory);
  if (!names.ok()) return names.status();
  const bool adapter = std::find(names->begin(), names->end(), kAdapterDirectory) != names->end();
  names->erase(std::remove_if(names->begin(), names->end(),
                              [](const std::string& name) {
                                return name == kManifestName || !IsModelFileName(name);
                              }),
               names->end());
  if (adapter) names->insert(names->end(), std::begin(kAdapterFiles), std::end(kAdapterFiles));
  absl::StatusOr<std::vector<v1::ModelFile>> files = DescribeFiles(directory, *names);
  if (!files.ok()) return files.status();
  manifest.set_format_version(kManifestVersion);
  manifest.mutable_files()->Assign(files->begin(), files->end());
  *manifest.mutable_create_time() = google::protobuf::util::TimeUtil::GetCurrentTime();
  return WriteJson(absl::StrCat(directory, "/", kManifestName), manifest);
}

absl::StatusOr<internal::ModelManifest> ReadManifest(const std::string& directory) {
  const std::string path = absl::StrCat(directory, "/", kManifestName);
  internal::ModelManifest manifest;
  absl::Status status = ReadVersionedJson(path, kManifestVersion, manifest);
  if (!status.ok()) return status;
  return manifest;
}

}  // namespace tasuki
