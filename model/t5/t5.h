// T5 (Raffel et al. 2020) for training, on a token-packed layout. Private to model/: includes
// torch.
//
// Read t5.cc from top to bottom: it is the network. Nothing is padded but on a GPU. The names of
// the weights, and so of the parts, are those of transformers' T5ForConditionalGeneration.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/t5/adapter.h"
#include "model/t5/config.h"
#include "model/t5/kernels.h"
#include "model/t5/weights.h"

namespace tasuki {

// Token sequences one after the other: [tokens of all] instead of [batch, longest].
struct PackedTokens {
  at::Tensor ids;                // [tokens], int64
  std::vector<int64_t> lengths;  // of each sequence; their sum is `tokens`

  static PackedTokens Of(const std::vector<std::vector<int32_t>>& sequences, at::Device device);
};

// Token sequences that are filled up to one length, for attention by LibTorch's operators: what a
// GPU takes. All tensors are on the model's device, and nothing of them is known on the host but
// their shapes.
struct PaddedTokens {
  at::Tensor ids;      // [sequences * length], int64; any that exist behind a sequence's end
  at::Tensor lengths;  // [sequences], int64, at least 1; undefined where only earlier keys are seen
  at::Tensor buckets;  // [2 * length - 1], int64: PositionBuckets of the stack they are for

  int64_t length() const { return (buckets.size(0) + 1) / 2; }
  int64_t sequences() const { return ids.size(0) / length(); }
};

// Shares of zeros; 0 switches dropout off. Random numbers come from torch's default generator.
struct Dropout {
  double network = 0;
  double adapter = 0;  // of what goes into an adapter
};

// Thread-compatible. Gradients gather in the weights that are trained.
class T5 {
 public:
  // Takes the tensors as they are (no copy) and makes each that is trained a leaf that requires
  // grad: those of the adapter, or all weights where there is none. In bf16 the products with
  // weights are computed from operands rounded to it, to fp32 sums; on a GPU their results and the
  // products of attention are bf16, too. All else, and what is stored, is fp32. REQUIRES: fp32, or
  // bf16 that the device can do.
  T5(const T5Config& config, WeightMap weights, Adapter adapter = {},
     Precision precision = Precision::kFp32);

  // [tokens, d_model], after the final norm.
  at::Tensor Encode(const PackedTokens& input, const Dropout& dropout) const;
  // Decoder states of the target positions, after the final norm: [target tokens, d_model].
  // `decoder_input` holds for each sequence the targets shifted right, beginning with
  // decoder_start_token_id; sequence i looks at sequence i of `input`.
  at::Tensor Decode(const PackedTokens& decoder_input, const at::Tensor& encoded,
                    const PackedTokens& input, const Dropout& dropout) const;
  // The same of padded sequences; rows behind a sequence's end are finite and mean nothing.
  at::Tensor Encode(const PaddedTokens& input, const Dropout& dropout) const;
  at::Tensor Decode(const PaddedTokens& decoder_input, const at::Tensor& encoded,
                    const PaddedTokens& input, const Dropout& dropout) const;
  // Logits over the vocabulary, fp32: [target tokens, vocab_size].
  at::Tensor Logits(const at::Tensor& decoded) const;

  const T5Config& config() const { return config_; }
  const WeightMap& weights() const { return weights_; }
  const Adapter& adapter() const { return adapter_; }
  const WeightMap& trained() const {
    return adapter_.weights.empty() ? weights_ : adapter_.weights;
  }
  // For answering and publishing: without gradients, the adapter merged in.
  WeightMap Merged() const { return Merge(weights_, adapter_); }

 private:
  T5Config config_;
  WeightMap weights_;
  Adapter adapter_;
  Precision precision_;
};

// The targets shifted right: decoder_start_token_id, then all but the last token.
std::vector<int32_t> ShiftRight(const std::vector<int32_t>& target, const T5Config& config);

}  // namespace tasuki
