// The shape of a T5, as transformers' T5Config writes it to config.json.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

struct T5Config {
  int64_t vocab_size = 32128;  // rows of the embedding; may be more than the tokenizer's size
  int64_t d_model = 512;
  int64_t d_kv = 64;  // of one head; num_heads * d_kv need not be d_model
  int64_t d_ff = 2048;
  int64_t num_layers = 6;
  int64_t num_decoder_layers = 6;
  int64_t num_heads = 8;
  int64_t relative_attention_num_buckets = 32;
  int64_t relative_attention_max_distance = 128;
  double dropout_rate = 0.1;
  double layer_norm_epsilon = 1e-6;
  double initializer_factor = 1.0;
  bool gated = false;  // feed_forward_proj "gated-gelu" (v1.1, mT5); else "relu" (v1.0)
  bool tie_word_embeddings = true;  // the head is the embedding, its input scaled by d_model^-0.5
  int32_t pad_token_id = 0;
  int32_t eos_token_id = 1;
  int32_t decoder_start_token_id = 0;

  // Reads config.json. INVALID_ARGUMENT, MODEL_INVALID: not a T5 or mT5, a missing or senseless
  // number, an activation other than relu and gated-gelu.
  static absl::StatusOr<T5Config> Read(const std::string& path);
  // Writes config.json so that T5ForConditionalGeneration.from_pretrained reads it.
  absl::Status Write(const std::string& path) const;
  // The shape of a new model (v1.0, tied). REQUIRES: a size resolved by ResolveJob.
  static T5Config OfSize(const v1::ModelSize& size, int64_t vocab_size);
};

}  // namespace tasuki
