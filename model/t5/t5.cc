#include "model/t5/t5.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <string>
#include <type_traits>
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

// How the tokens of a stack attend to each other. Biases are shared by the layers.
struct PackedSelfAttention {
  PackedSelfAttention(const PackedTokens& tokens, const Tensor& table, bool bidirectional,
                      const T5Config& config, Precision)
      : lengths(tokens.lengths),
        biases(DistanceBias(table, *std::max_element(lengths.begin(), lengths.end()), bidirectional,
                            config)) {}
  Tensor operator()(const Tensor& rows, double dropout) const {
    return AttendToSelf(rows, lengths, biases, dropout);
  }

  const std::vector<int64_t>& lengths;
  const Tensor biases;
};

struct PaddedSelfAttention {
  PaddedSelfAttention(const PaddedTokens& tokens, const Tensor& table, bool bidirectional,
                      const T5Config& config, Precision precision)
      : sequences(tokens.sequences()),
        heads(config.num_heads),
        // In the decoder earlier keys are seen only, and those of a token are none of the padding.
        bias(PositionBias(DistanceBias(table, tokens.buckets, bidirectional),
                          bidirectional ? tokens.lengths : Tensor(),
                          TypeOfProducts(table.device(), precision))) {}
  Tensor operator()(const Tensor& rows, double dropout) const {
    return AttendToSelfPadded(rows, sequences, heads, bias, dropout);
  }

  const int64_t sequences, heads;
  const Tensor bias;
};

// How those of the decoder attend to the encoder's.
struct PackedEncoderAttention {
  PackedEncoderAttention(const PackedTokens& decoder_input, const PackedTokens& input,
                         const T5Config& config, Precision)
      : query_lengths(decoder_input.lengths),
        key_lengths(input.lengths),
        heads(config.num_heads),
        to_states(
            StatesAreCheaper(query_lengths, key_lengths, heads, config.d_kv, config.d_model)) {}
  Tensor operator()(const Tensor& queries, const Tensor& keys_values, double dropout) const {
    return AttendToOthers(queries, keys_values, query_lengths, key_lengths, heads, dropout);
  }
  Tensor ToStates(const Tensor& queries, const Tensor& encoded, const Tensor& key_weight,
                  const Tensor& value_weight, double dropout) const {
    return AttendToStates(queries, encoded, key_weight, value_weight, query_lengths, key_lengths,
                          heads, dropout);
  }

  const std::vector<int64_t>&query_lengths, &key_lengths;
  const int64_t heads;
  const bool to_states;  // keys and values need not be made
};

struct PaddedEncoderAttention {
  PaddedEncoderAttention(const PaddedTokens& decoder_input, const PaddedTokens& input,
                         const T5Config& config, Precision precision)
      : sequences(decoder_input.sequences()),
        heads(config.num_heads),
        bias(KeyBias(input.lengths, input.length(),
                     TypeOfProducts(input.ids.device(), precision))) {}
  Tensor operator()(const Tensor& queries, const Tensor& keys_values, double dropout) const {
    return AttendToOthersPadded(queries, keys_values, sequences, heads, bias, dropout);
  }

  const int64_t sequences, heads;
  const Tensor bias;
};

template <typename Tokens>
constexpr bool kPacked = std::is_same_v<Tokens, PackedTokens>;
template <typename Tokens>
using SelfAttentionOf =
    std::conditional_t<kPacked<Tokens>, PackedSelfAttention, PaddedSelfAttention>;
template <typename Tokens>
using EncoderAttentionOf =
    std::conditional_t<kPacked<Tokens>, PackedEncoderAttention, PaddedEncoderAttention>;

// One pass through a stack. Layers are known by the prefix of their weights' names.
struct Pass {
  const T5Config& config;
  const WeightMap& weights;
  const Adapter& adapter;
  Precision precision;
  Dropout dropout;

  Tensor Embed(const Tensor& ids) const {
    return Drop(tasuki::Embed(Weight("shared.weight"), ids));
  }

  // Sublayers answer the residual stream x [tokens, d_model] with what they add to it.
  template <typename SelfAttention>
  Tensor Attend(const std::string& layer, const Tensor& x, const SelfAttention& attention) const {
    const std::string part = layer + "SelfAttention.";
    const Tensor seen = attention(Linear(part, {"q", "k", "v"}, Norm(layer, x)), dropout.network);
    return Add(x, Linear(part, {"o"}, seen));
  }

  template <typename EncoderAttention>
  Tensor Attend(const std::string& layer, const Tensor& x, const EncoderAttention& attention,
                const Tensor& encoded) const {
    const std::string part = layer + "EncDecAttention.";
    const Tensor queries = Linear(part, {"q"}, Norm(layer, x));
    return Add(x, Linear(part, {"o"}, Look(part, queries, attention, encoded)));
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
  Tensor Look(const std::string& part, const Tensor& queries,
              const PackedEncoderAttention& attention, const Tensor& encoded) const {
    if (attention.to_states && !IsAdapted(part, "k") && !IsAdapted(part, "v")) {
      return attention.ToStates(queries, encoded, Weight(part + "k.weight"),
                                Weight(part + "v.weight"), dropout.network);
    }
    return attention(queries, Linear(part, {"k", "v"}, encoded), dropout.network);
  }
  Tensor Look(const std::string& part, const Tensor& queries,
              const PaddedEncoderAttention& attention, const Tensor& encoded) const {
    return attention(queries, Linear(part, {"k", "v"}, encoded), dropout.network);
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
        const Tensor low =
            at::linear(tasuki::Drop(x, dropout.adapter).to(a->second.scalar_type()), a->second);
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

template <typename Tokens>
Tensor EncodeBy(const Pass& pass, const Tokens& input) {
  const SelfAttentionOf<Tokens> attention(input, BiasTable("encoder.", pass.weights),
                                          /*bidirectional=*/true, pass.config, pass.precision);

  Tensor x = pass.Embed(input.ids);
  for (int64_t i = 0; i < pass.config.num_layers; ++i) {
    const std::string block = absl::StrCat("encoder.block.", i, ".layer.");
    x = pass.Attend(block + "0.", x, attention);
    x = pass.FeedForward(block + "1.", x);
  }
  return pass.FinalNorm("encoder.", x);
}

template <typename Tokens>
Tensor DecodeBy(const Pass& pass, const Tokens& decoder_input, const Tensor& encoded,
                const Tokens& input) {
  const SelfAttentionOf<Tokens> attention(decoder_input, BiasTable("decoder.", pass.weights),
                                          /*bidirectional=*/false, pass.config, pass.precision);
  const EncoderAttentionOf<Tokens> encoder_attention(decoder_input, input, pass.config,
                                                     pass.precision);

  Tensor x = pass.Embed(decoder_input.ids);
  for (int64_t i = 0; i < pass.config.num_decoder_layers; ++i) {
    const std::string block = absl::StrCat("decoder.block.", i, ".layer.");
    x = pass.Attend(block + "0.", x, attention);
    x = pass.Attend(block + "1.", x, encoder_attention, encoded);
    x = pass.FeedForward(block + "2.", x);
  }
  return pass.FinalNorm("decoder.", x);
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
  return EncodeBy({config_, weights_, adapter_, precision_, dropout}, input);
}

Tensor T5::Encode(const PaddedTokens& input, const Dropout& dropout) const {
  return EncodeBy({config_, weights_, adapter_, precision_, dropout}, input);
}

Tensor T5::Decode(const PackedTokens& decoder_input, const Tensor& encoded,
                  const PackedTokens& input, const Dropout& dropout) const {
  return DecodeBy({config_, weights_, adapter_, precision_, dropout}, decoder_input, encoded,
                  input);
}

Tensor T5::Decode(const PaddedTokens& decoder_input, const Tensor& encoded,
                  const PaddedTokens& input, const Dropout& dropout) const {
  return DecodeBy({config_, weights_, adapter_, precision_, dropout}, decoder_input, encoded,
                  input);
}

Tensor T5::Logits(const Tensor& decoded) const {
  if (!config_.tie_word_embeddings) {
    return Linear(decoded, {weights_.at("lm_head.weight")}, precision_).to(at::kFloat);
  }
  const double scale = 1 / std::sqrt(static_cast<double>(config_.d_model));
  return Linear(decoded * scale, {weights_.at("shared.weight")}, precision_).to(at::kFloat);
}

std::vector<int32_t> ShiftRight(const std::vector<int32_t>& target, const T5Config& config) {
  std::vector<int32_t> shifted = {config.decoder_start_token_id};
  shifted.insert(shifted.end(), target.begin(), target.end() - 1);
  return shifted;
}

}  // namespace tasuki
