#include "model/training/result.h"

#include <ATen/ATen.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/files/durable.h"
#include "model/files/model_directory.h"
#include "model/recipe/version_name.h"
#include "model/t5/adapter.h"
#include "model/t5/weights.h"
#include "model/text/tokenizer.h"

namespace tasuki {
namespace {

constexpr char kTokenizerName[] = "spiece.model";

// transformers' description of a tokenizer that TrainTokenizer made.
std::string TokenizerConfig() {
  std::string sentinels;
  for (int i = 0; i < kSentinelCount; ++i) {
    absl::StrAppend(&sentinels, i == 0 ? "" : ", ", "\"<extra_id_", i, ">\"");
  }
  return absl::StrCat(R"({
  "tokenizer_class": "T5Tokenizer",
  "legacy": true,
  "extra_ids": )",
                      kSentinelCount, R"(,
  "additional_special_tokens": [)",
                      sentinels, R"(],
  "eos_token": "</s>",
  "pad_token": "<pad>",
  "unk_token": "<unk>"
}
)");
}

constexpr char kSpecialTokensMap[] = R"({
  "eos_token": "</s>",
  "pad_token": "<pad>",
  "unk_token": "<unk>"
}
)";

std::string GenerationConfig(const T5Config& config) {
  return absl::StrCat("{\n  \"decoder_start_token_id\": ", config.decoder_start_token_id,
                      ",\n  \"eos_token_id\": ", config.eos_token_id,
                      ",\n  \"pad_token_id\": ", config.pad_token_id, "\n}\n");
}

// Copies a file; where there is none, writes `otherwise`, or fails if that is empty.
absl::Status CopyFile(const std::string& name, const std::string& from, const std::string& to,
                      const std::string& otherwise) {
  absl::StatusOr<std::string> bytes = ReadFile(absl::StrCat(from, "/", name));
  if (absl::IsNotFound(bytes.status()) && !otherwise.empty()) bytes = otherwise;
  if (!bytes.ok()) return bytes.status();
  return WriteFile(absl::StrCat(to, "/", name), *bytes);
}

}  // namespace

absl::Status WriteResult(const std::string& directory, const T5& model,
                         const std::string& tokenizer_directory, internal::ModelManifest manifest) {
  int64_t parameter_count = 0;
  for (const auto& [name, weight] : model.weights()) parameter_count += weight.numel();
  manifest.set_parameter_count(parameter_count);

  const std::string aside = directory + ".aside";
  const std::string& from = tokenizer_directory;
  absl::Status status = RemoveAll(aside);
  if (status.ok()) status = MakeDirectories(aside);
  if (status.ok()) status = model.config().Write(aside + "/config.json");
  if (status.ok()) status = WriteWeights(aside, model.Merged());
  if (status.ok() && manifest.has_lora()) {
    const auto base = VersionName::Parse(manifest.base_model_version());
    status = WriteAdapter(absl::StrCat(aside, "/", kAdapterDirectory), model.adapter(),
                          manifest.lora(), base ? base->Short() : "");
  }
  if (status.ok()) status = CopyFile(kTokenizerName, from, aside, "");
  if (status.ok()) status = CopyFile("tokenizer_config.json", from, aside, TokenizerConfig());
  if (status.ok()) status = CopyFile("special_tokens_map.json", from, aside, kSpecialTokensMap);
  if (status.ok())
    status = CopyFile("generation_config.json", from, aside, GenerationConfig(model.config()));
  if (status.ok()) status = WriteManifest(aside, std::move(manifest));
  if (status.ok()) status = PublishDirectory(aside, directory);
  return status;
}

}  // namespace tasuki
