// The directory of a model version: a Hugging Face T5 directory with a tasuki.json beside it.
//
//   config.json        transformers' T5Config (model/t5/config.h)
//   model.safetensors  weights under transformers' names; or shards with
//                      model.safetensors.index.json
//   spiece.model       SentencePiece
//   tokenizer_config.json, special_tokens_map.json, generation_config.json  for transformers
//   adapter/           adapter_config.json and adapter_model.safetensors, as peft reads them: the
//                      adapter that was merged into the weights, where one was trained here
//   tasuki.json        internal.ModelManifest: tasks, lineage, hash of every other file
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tasuki/internal/files.pb.h"

namespace tasuki {

inline constexpr char kManifestName[] = "tasuki.json";
inline constexpr int kManifestVersion = 3;
inline constexpr char kAdapterDirectory[] = "adapter";

// True for the names that ModelFile.name documents but the adapter's; nothing else is ever
// imported.
bool IsModelFileName(absl::string_view name);

// True for a file of the adapter's directory: "adapter/adapter_config.json".
bool IsAdapterFile(absl::string_view name);

// Writes tasuki.json with `manifest`, its `files`, `format_version` and `create_time` filled in
// from what lies in `directory`.
absl::Status WriteManifest(const std::string& directory, internal::ModelManifest manifest);

// Reads tasuki.json. NOT_FOUND if there is none; DATA_LOSS, FILE_CHANGED if malformed or of a newer
// format (both versions are named). Hashes are not checked: see CheckFiles.
absl::StatusOr<internal::ModelManifest> ReadManifest(const std::string& directory);

}  // namespace tasuki
