#include "model/t5/t5.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/relu.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/t5/attention.h"
#include "model/t5/functions.h"

namespace tasuki {
namespace {

using at::Tensor;

// One pass through a stack. Layers are known by the prefix of their weights' names.
struct Pass {
  const T5Config& config;
  const WeightMap& weights;
  double dropout;

  Tensor Embed(const PackedTokens& tokens) const {
    return Dropout(at::embedding(Weight("shared.weight"), tokens.ids));
  }

  // Sublayers answer what is added to the residual stream x [tokens, d_model].
  Tensor Attend(const std::string& layer, const Tensor& x, const SelfAttention& attention) const {
    const std::string part = layer + "SelfAttention.";
    // One product for queries, keys and values.
    const Tensor in =
        at::cat({Weight(part + "q.weight"), Weight(part + "k.weight"), Weight(part + "v.weight")});
    const Tensor seen = attention(at::linear(Norm(layer, x), in), dropout);
    return Dropout(at::linear(seen, Weight(part + "o.weight")));
  }

  Tensor Attend(const std::string& layer, const Tensor& x, const CrossAttention& attention,
                const Tensor& encoded) const {
    const std::string part = layer + "EncDecAttention.";
    const Tensor queries = at::linear(Norm(layer, x), Weight(part + "q.weight"));
    const Tensor keys_values =
        at::linear(encoded, at::cat({Weight(part + "k.weight"), Weight(part + "v.weight")}));
    const Tensor seen = attention(queries, keys_values, dropout);
    return Dropout(at::linear(seen, Weight(part + "o.weight")));
  }

  Tensor FeedForward(const std::string& layer, const Tensor& x) const {
    const std::string part = layer + "DenseReluDense.";
    const Tensor normed = Norm(layer, x);
    const Tensor hidden = config.gated
                              ? at::gelu(at::linear(normed, Weight(part + "wi_0.weight")), "tanh") *
                                    at::linear(normed, Weight(part + "wi_1.weight"))
                              : at::relu(at::linear(normed, Weight(part + "wi.weight")));
    return Dropout(at::linear(Dropout(hidden), Weight(part + "wo.weight")));
  }

  Tensor FinalNorm(const std::string& stack, const Tensor& x) const {
    return Dropout(
        RmsNorm(x, Weight(stack + "final_layer_norm.weight"), config.layer_norm_epsilon));
  }

 private:
  const Tensor& Weight(const std::string& name) const { return weights.at(name); }
  Tensor Norm(const std::string& layer, const Tensor& x) const {
    return RmsNorm(x, Weight(layer + "layer_norm.weight"), config.layer_norm_epsilon);
  }
  Tensor Dropout(const Tensor& x) const {
    return dropout > 0 ? at::dropout(x, dropout, /*train=*/true) : x;
  }
};

// The biases of relative positions are those of a stack's first block.
Tensor BiasTable(const std::string& stack, const WeightMap& weights) {
  return weights.at(stack + "block.0.layer.0.SelfAttention.relative_attention_bias.weight");
}

}  // namespace

PackedTokens PackedTokens::Of(const std::vector<std::vector<int32_t>>& sequences,
                              at::Device device) {
  PackedTokens packed;
  int64_t total = 0;
  for (const std::vector<int32_t>& sequence : sequences) {
    packed.lengths.push_back(static_cast<int64_t>(sequence.size()));
    total += packed.lengths.back();
  }
  packed.ids = at::empty({total}, at::kLong);
  int64_t* ids = packed.ids.mutable_data_ptr<int64_t>();
  for (const std::vector<int32_t>& sequence : sequences) {
    ids = std::copy(sequence.begin(), sequence.end(), ids);
  }
  packed.ids = packed.ids.to(device);
  return packed;
}

T5::T5(const T5Config& config, WeightMap weights) : config_(config), weights_(std::move(weights)) {
  for (auto& [name, weight] : weights_) weight.set_requires_grad(true);
}

Tensor T5::Encode(const PackedTokens& input, double dropout) const {
  const Pass pass{config_, weights_, dropout};
  const SelfAttention attention = PositionalSelfAttention(
      input.lengths, BiasTable("encoder.", weights_), /*bidirectional=*/true, config_);

  Tensor x = pass.Embed(input);
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    const std::string block = absl::StrCat("encoder.block.", i, ".layer.");
    x = x + pass.Attend(block + "0.", x, attention);
    x = x + pass.FeedForward(block + "1.", x);
  }
  return pass.FinalNorm("encoder.", x);
}

Tensor T5::Decode(const PackedTokens& decoder_input, const Tensor& encoded,
                  const PackedTokens& input, double dropout) const {
  const Pass pass{config_, weights_, dropout};
  const SelfAttention attention = PositionalSelfAttention(
      decoder_input.lengths, BiasTable("decoder.", weights_), /*bidirectional=*/false, config_);
  const CrossAttention cross_attention(decoder_input.lengths, input.lengths, config_.num_heads,
                                       encoded.device());

  Tensor x = pass.Embed(decoder_input);
  for (int64_t i = 0; i < config_.num_decoder_layers; ++i) {
    const std::string block = absl::StrCat("decoder.block.", i, ".layer.");
    x = x + pass.Attend(block + "0.", x, attention);
    x = x + pass.Attend(block + "1.", x, cross_attention, encoded);
    x = x + pass.FeedForward(block + "2.", x);
  }
  return pass.FinalNorm("decoder.", x);
}

Tensor T5::Logits(const Tensor& decoded) const {
  if (!config_.tie_word_embeddings) return at::linear(decoded, weights_.at("lm_head.weight"));
  const double scale = 1 / std::sqrt(static_cast<double>(config_.d_model));
  return at::linear(decoded * scale, weights_.at("shared.weight"));
}

std::vector<int32_t> ShiftRight(const std::vector<int32_t>& target, const T5Config& config) {
  std::vector<int32_t> shifted = {config.decoder_start_token_id};
  shifted.insert(shifted.end(), target.begin(), target.end() - 1);
  return shifted;
}

}  // namespace tasuki
