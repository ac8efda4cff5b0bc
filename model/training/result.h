// The model directory that a training leaves behind. Includes torch.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "model/t5/t5.h"
#include "tasuki/internal/files.pb.h"

namespace tasuki {

// Writes config, weights, tokenizer and manifest (model/files/model_directory.h) beside `directory`
// and renames them into place. An adapter is merged into the weights, and there itself as well:
// `manifest` then has its lora and base_model_version. spiece.model comes from
// `tokenizer_directory`, and so do transformers' files about tokenizer and generation where it has
// them. REQUIRES: `directory` is not there. Errors as in model/files/durable.h.
absl::Status WriteResult(const std::string& directory, const T5& model,
                         const std::string& tokenizer_directory, internal::ModelManifest manifest);

}  // namespace tasuki
