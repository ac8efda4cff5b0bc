#include "model/t5/t5.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/t5/attention.h"
#include "model/t5/functions.h"
#include "model/t5/linear.h"
#include "model/t5/packed_attention.h"

namespace tasuki {
namespace {

using at::Tensor;

// How the tokens of a stack attend to each other: packed on a CPU, padded elsewhere.
class StackAttention {
 public:
  StackAttention(const std::vector<int64_t>& lengths, const Tensor& table, bool bidirectional,
                 const T5Config& config)
      : lengths_(lengths) {
    if (table.is_cpu()) {
      const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
      biases_ = DistanceBias(table, longest, bidirectional, config);
    } else {
      padded_.emplace(PositionalSelfAttention(lengths, table, bidirectional, config));
    }
  }
  Tensor operator()(const Tensor& rows, double dropout) const {
    return padded_ ? (*padded_)(rows, dropout) : AttendToSelf(rows, lengths_, biases_, dropout);
  }

 private:
  const std::vector<int64_t>& lengths_;
  Tensor biases_;
  std::optional<SelfAttention> padded_;
};

// How those of the decoder attend to the encoder's.
struct EncoderAttention {
  EncoderAttention(const std::vector<int64_t>& query_lengths,
                   const std::vector<int64_t>& key_lengths, const T5Config& config,
                   at::Device device)
      : query_lengths(query_lengths),
        key_lengths(key_lengths),
        heads(config.num_heads),
        to_states(device.is_cpu() && StatesAreCheaper(query_lengths, key_lengths, config.num_heads,
                                                      config.d_kv, config.d_model)) {
    if (!device.is_cpu()) padded.emplace(query_lengths, key_lengths, heads, device);
  }
  Tensor operator()(const Tensor& queries, const Tensor& keys_values, double dropout) const {
    return padded
               ? (*padded)(queries, keys_values, dropout)
               : AttendToOthers(queries, keys_values, query_lengths, key_lengths, heads, dropout);
  }

  const std::vector<int64_t>&query_lengths, &key_lengths;
  const int64_t heads;
  const bool to_states;  // keys and values need not be made
  std::optional<CrossAttention> padded;
};

// One pass through a stack. Layers are known by the prefix of their weights' names.
struct Pass {
  const T5Config& config;
  const WeightMap& weights;
  const Adapter& adapter;
  Precision precision;
  Dropout dropout;

  Tensor Embed(const PackedTokens& tokens) const {
    return Drop(tasuki::Embed(Weight("shared.weight"), tokens.ids));
  }

  // Sublayers answer the residual stream x [tokens, d_model] with what they add to it.
  Tensor Attend(const std::string& layer, const Tensor& x, const StackAttention& attention) const {
    const std::string part = layer + "SelfAttention.";
    const Tensor seen = attention(Linear(part, {"q", "k", "v"}, Norm(layer, x)), dropout.network);
    return Add(x, Linear(part, {"o"}, seen));
  }

  Tensor Attend(const std::string& layer, const Tensor& x, const EncoderAttention& attention,
                const Tensor& encoded) const {
    const std::string part = layer + "EncDecAttention.";
    const Tensor queries = Linear(part, {"q"}, Norm(layer, x));
    Tensor seen;
    if (attention.to_states && !IsAdapted(part, "k") && !IsAdapted(part, "v")) {
      seen = AttendToStates(queries, encoded, Weight(part + "k.weight"), Weight(part + "v.weight"),
                            attention.query_lengths, attention.key_lengths, attention.heads,
                            dropout.network);
    } else {
      seen = attention(queries, Linear(part, {"k", "v"}, encoded), dropout.network);
    }
    return Add(x, Linear(part, {"o"}, seen));
  }

  Tensor FeedForward(const std::string& layer, const Tensor& x) const {
    const std::string part = layer + "DenseReluDense.";
    const Tensor normed = Norm(layer, x);
    Tensor hidden;
    if (config.gated) {
      hidden = DroppedGatedGelu(Linear(part, {"wi_0"}, normed), Linear(part, {"wi_1"}, normed),
                                dropout.network);
    } else {
      hidden = DroppedRelu(Linear(part, {"wi"}, normed), dropout.network);
    }
    return Add(x, Linear(part, {"wo"}, hidden));
  }

  Tensor FinalNorm(const std::string& stack, const Tensor& x) const {
    return Drop(RmsNorm(x, Weight(stack + "final_layer_norm.weight"), config.layer_norm_epsilon));
  }

 private:
  const Tensor& Weight(const std::string& name) const { return weights.at(name); }
  Tensor Norm(const std::string& layer, const Tensor& x) const {
    return RmsNorm(x, Weight(layer + "layer_norm.weight"), config.layer_norm_epsilon);
  }
  Tensor Drop(const Tensor& x) const { return tasuki::Drop(x, dropout.network); }
  Tensor Add(const Tensor& x, const Tensor& more) const {
    return AddDropped(x, more, dropout.network);
  }
  bool IsAdapted(const std::string& part, const char* name) const {
    return adapter.weights.contains(absl::StrCat(part, name, ".lora_A.weight"));
  }

  // x times weights of one shape, as one product whose columns are those of the first weight, then
  // of the second, …; and to those of each weight what its adapter adds.
  Tensor Linear(const std::string& part, std::initializer_list<const char*> names,
                const Tensor& x) const {
    std::vector<Tensor> matrices;
    for (const char* name : names) matrices.push_back(Weight(absl::StrCat(part, name, ".weight")));
    Tensor product = tasuki::Linear(x, matrices, precision);
    const int64_t width = matrices[0].size(0);
    int64_t column = 0;
    for (const char* name : names) {
      const auto a = adapter.weights.find(absl::StrCat(part, name, ".lora_A.weight"));
      if (a != adapter.weights.end()) {
        const Tensor& b = adapter.weights.at(absl::StrCat(part, name, ".lora_B.weight"));
        const Tensor low = at::linear(tasuki::Drop(x, dropout.adapter), a->second);
        product.narrow(1, column, width).add_(at::linear(low, b), adapter.scale);
      }
      column += width;
    }
    return product;
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

T5::T5(const T5Config& config, WeightMap weights, Adapter adapter, Precision precision)
    : config_(config),
      weights_(std::move(weights)),
      adapter_(std::move(adapter)),
      precision_(precision) {
  for (const auto& [name, weight] : trained()) weight.set_requires_grad(true);
}

Tensor T5::Encode(const PackedTokens& input, const Dropout& dropout) const {
  const Pass pass{config_, weights_, adapter_, precision_, dropout};
  const StackAttention attention(input.lengths, BiasTable("encoder.", weights_),
                                 /*bidirectional=*/true, config_);

  Tensor x = pass.Embed(input);
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    const std::string block = absl::StrCat("encoder.block.", i, ".layer.");
    x = pass.Attend(block + "0.", x, attention);
    x = pass.FeedForward(block + "1.", x);
  }
  return pass.FinalNorm("encoder.", x);
}

Tensor T5::Decode(const PackedTokens& decoder_input, const Tensor& encoded,
                  const PackedTokens& input, const Dropout& dropout) const {
  const Pass pass{config_, weights_, adapter_, precision_, dropout};
  const StackAttention attention(decoder_input.lengths, BiasTable("decoder.", weights_),
                                 /*bidirectional=*/false, config_);
  const EncoderAttention encoder_attention(decoder_input.lengths, input.lengths, config_,
                                           encoded.device());

  Tensor x = pass.Embed(decoder_input);
  for (int64_t i = 0; i < config_.num_decoder_layers; ++i) {
    const std::string block = absl::StrCat("decoder.block.", i, ".layer.");
    x = pass.Attend(block + "0.", x, attention);
    x = pass.Attend(block + "1.", x, encoder_attention, encoded);
    x = pass.FeedForward(block + "2.", x);
  }
  return pass.FinalNorm("decoder.", x);
}

Tensor T5::Logits(const Tensor& decoded) const {
  if (!config_.tie_word_embeddings) {
    return Linear(decoded, {weights_.at("lm_head.weight")}, precision_);
  }
  const double scale = 1 / std::sqrt(static_cast<double>(config_.d_model));
  return Linear(decoded * scale, {weights_.at("shared.weight")}, precision_);
}

std::vector<int32_t> ShiftRight(const std::vector<int32_t>& target, const T5Config& config) {
  std::vector<int32_t> shifted = {config.decoder_start_token_id};
  shifted.insert(shifted.end(), target.begin(), target.end() - 1);
  return shifted;
}

}  // namespace tasuki
