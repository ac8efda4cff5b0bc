#include "model/t5/torch_scorer.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/full.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/relu.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/t5/attention.h"
#include "model/t5/functions.h"
#include "model/t5/t5.h"

namespace tasuki {
namespace {

using at::Tensor;

// Weights, which scorers share, and what an adapter adds to their product: to some of the outputs
// B (A x).
struct Product {
  struct Part {
    int64_t first_output;
    Adapter::Pair pair;
  };
  Tensor weights;
  std::vector<Part> added;

  // Outputs from `first` on.
  Tensor operator()(const Tensor& x, int64_t first = 0) const {
    Tensor y = at::linear(x, weights.slice(0, first));
    for (const auto& [output, pair] : added) {
      if (output < first) continue;
      y.narrow(1, output - first, pair.b.size(0)).add_(at::linear(at::linear(x, pair.a), pair.b));
    }
    return y;
  }
};

// The weights of a block in the products in which they are used.
struct Block {
  Tensor self_norm, cross_norm, feed_forward_norm;
  Product self_in, self_out;                                     // self_in: queries, keys, values
  Product cross_queries, cross_keys_values, cross_out;           // decoder only, as is cross_norm
  Product feed_forward_gate, feed_forward_in, feed_forward_out;  // gate or none
};

Block PrepareBlock(const WeightMap& weights, const std::string& prefix, bool decoder, bool gated) {
  const auto weight = [&](const char* name) {
    return weights.at(absl::StrCat(prefix, name)).detach();
  };
  Block block;
  block.self_norm = weight("0.layer_norm.weight");
  block.self_in.weights =
      at::cat({weight("0.SelfAttention.q.weight"), weight("0.SelfAttention.k.weight"),
               weight("0.SelfAttention.v.weight")});
  block.self_out.weights = weight("0.SelfAttention.o.weight");
  if (decoder) {
    block.cross_norm = weight("1.layer_norm.weight");
    block.cross_queries.weights = weight("1.EncDecAttention.q.weight");
    block.cross_keys_values.weights =
        at::cat({weight("1.EncDecAttention.k.weight"), weight("1.EncDecAttention.v.weight")});
    block.cross_out.weights = weight("1.EncDecAttention.o.weight");
  }
  const std::string last = decoder ? "2." : "1.";
  block.feed_forward_norm = weight((last + "layer_norm.weight").c_str());
  if (gated) {
    block.feed_forward_gate.weights = weight((last + "DenseReluDense.wi_0.weight").c_str());
  }
  block.feed_forward_in.weights =
      weight((last + (gated ? "DenseReluDense.wi_1.weight" : "DenseReluDense.wi.weight")).c_str());
  block.feed_forward_out.weights = weight((last + "DenseReluDense.wo.weight").c_str());
  return block;
}

// Adds an adapter to a block, and answers its bytes.
int64_t Add(const Adapter& adapter, const std::string& prefix, bool gated, Block& block) {
  int64_t bytes = 0;
  const auto add = [&](Product& product, const std::vector<const char*>& weights) {
    for (size_t i = 0; i < weights.size(); ++i) {
      const Adapter::Pair pair = adapter.Of(absl::StrCat(prefix, weights[i], ".weight"));
      if (!pair.a.defined()) continue;
      product.added.push_back({static_cast<int64_t>(i) * pair.b.size(0), pair});
      bytes += pair.a.nbytes() + pair.b.nbytes();
    }
  };
  add(block.self_in, {"0.SelfAttention.q", "0.SelfAttention.k", "0.SelfAttention.v"});
  add(block.self_out, {"0.SelfAttention.o"});
  add(block.cross_queries, {"1.EncDecAttention.q"});
  add(block.cross_keys_values, {"1.EncDecAttention.k", "1.EncDecAttention.v"});
  add(block.cross_out, {"1.EncDecAttention.o"});
  for (const char* last : {"1.", "2."}) {  // of an encoder, of a decoder
    const std::string part = absl::StrCat(last, "DenseReluDense.");
    add(block.feed_forward_gate, {(part + "wi_0").c_str()});
    add(block.feed_forward_in, {(part + (gated ? "wi_1" : "wi")).c_str()});
    add(block.feed_forward_out, {(part + "wo").c_str()});
  }
  return bytes;
}

Tensor FeedForward(const Block& block, const Tensor& normed) {
  Tensor hidden = block.feed_forward_in(normed);
  if (block.feed_forward_gate.weights.defined()) {
    hidden.mul_(at::gelu(block.feed_forward_gate(normed), "tanh"));
  } else {
    hidden.relu_();
  }
  return block.feed_forward_out(hidden);
}

// Rows of a trie see themselves and their ancestors, at the distances of their depths.
SelfAttention TrieAttention(absl::Span<const T5Scorer::Input> inputs,
                            const std::vector<int64_t>& row_counts, const Tensor& table,
                            at::Device device, const T5Config& config) {
  SelfAttention attention(row_counts, config.num_heads, device);
  const auto bias_of = table.accessor<float, 2>();  // [bucket][head]
  for (size_t g = 0; g < attention.groups.size(); ++g) {
    const Group& group = attention.groups[g];
    const int64_t heads = config.num_heads, longest = attention.inputs.longest(g);
    Tensor bias = at::full({static_cast<int64_t>(group.size()) * heads, longest, longest},
                           -std::numeric_limits<float>::infinity(), at::kFloat);
    bias.diagonal(0, 1, 2).zero_();  // what is padding sees itself
    auto out = bias.accessor<float, 3>();
    for (size_t s = 0; s < group.size(); ++s) {
      const std::vector<LabelTrie::Row>& rows = inputs[group[s]].labels->rows();
      for (int row = 0; row < static_cast<int>(rows.size()); ++row) {
        for (int seen = row; seen >= 0; seen = rows[seen].parent) {
          const int64_t bucket = RelativePositionBucket(rows[seen].depth - rows[row].depth,
                                                        /*bidirectional=*/false, config);
          for (int64_t h = 0; h < heads; ++h) out[s * heads + h][row][seen] = bias_of[bucket][h];
        }
      }
    }
    attention.biases.push_back(bias.to(device));
  }
  return attention;
}

// The tokens that end in some child of some trie, each with its column among them.
std::map<int32_t, int64_t> ChildColumns(absl::Span<const T5Scorer::Input> inputs) {
  std::map<int32_t, int64_t> columns;
  const LabelTrie* last = nullptr;
  for (const T5Scorer::Input& input : inputs) {
    if (std::exchange(last, input.labels) == input.labels) continue;
    for (const LabelTrie::Row& row : input.labels->rows()) {
      for (int32_t token : row.child_tokens) columns[token];
    }
  }
  int64_t column = 0;
  for (auto& entry : columns) entry.second = column++;
  return columns;
}

}  // namespace

struct TorchScorer::Prepared {
  T5Config config;
  Tensor embedding, head;
  Tensor encoder_biases, decoder_biases;  // [bucket, head]; the decoder's on the CPU
  std::vector<Block> encoder, decoder;
  Tensor encoder_norm, decoder_norm;
  int64_t memory_bytes = 0;

  Tensor Norm(const Tensor& x, const Tensor& weight) const {
    return RmsNorm(x, weight, config.layer_norm_epsilon);
  }
  Tensor Encode(const PackedTokens& input) const;
  Tensor Decode(absl::Span<const Input> inputs, const Tensor& encoded,
                const std::vector<int64_t>& lengths) const;
};

// [tokens, d_model]
Tensor TorchScorer::Prepared::Encode(const PackedTokens& input) const {
  const SelfAttention attention =
      PositionalSelfAttention(input.lengths, encoder_biases, /*bidirectional=*/true, config);
  Tensor x = at::embedding(embedding, input.ids);
  for (const Block& block : encoder) {
    x.add_(block.self_out(attention(block.self_in(Norm(x, block.self_norm)), 0)));
    x.add_(FeedForward(block, Norm(x, block.feed_forward_norm)));
  }
  return Norm(x, encoder_norm);
}

// States of the rows of each input's trie, one input after the other: [rows, d_model].
Tensor TorchScorer::Prepared::Decode(absl::Span<const Input> inputs, const Tensor& encoded,
                                     const std::vector<int64_t>& lengths) const {
  const at::Device device = encoded.device();
  std::vector<std::vector<int32_t>> tokens;
  for (const Input& input : inputs) {
    std::vector<int32_t>& of_input = tokens.emplace_back();
    for (const LabelTrie::Row& row : input.labels->rows()) {
      of_input.push_back(row.parent < 0 ? config.decoder_start_token_id : row.token);
    }
  }
  const PackedTokens rows = PackedTokens::Of(tokens, device);
  const bool only_roots = rows.ids.size(0) == static_cast<int64_t>(inputs.size());
  const SelfAttention attention =
      TrieAttention(inputs, rows.lengths, decoder_biases, device, config);
  const CrossAttention cross_attention(rows.lengths, lengths, config.num_heads, device);

  Tensor x = at::embedding(embedding, rows.ids);
  for (const Block& block : decoder) {
    const Tensor normed = Norm(x, block.self_norm);
    // A root sees itself alone, with weight 1: its value is the answer.
    const Tensor seen = only_roots ? block.self_in(normed, 2 * config.num_heads * config.d_kv)
                                   : attention(block.self_in(normed), 0);
    x.add_(block.self_out(seen));
    const Tensor queries = block.cross_queries(Norm(x, block.cross_norm));
    const Tensor keys_values = block.cross_keys_values(encoded);
    x.add_(block.cross_out(cross_attention(queries, keys_values, 0)));
    x.add_(FeedForward(block, Norm(x, block.feed_forward_norm)));
  }
  return Norm(x, decoder_norm);
}

TorchScorer::TorchScorer(const T5Config& config, const WeightMap& weights) {
  const c10::InferenceMode inference;
  auto prepared = std::make_unique<Prepared>();
  prepared->config = config;
  const auto weight = [&](const std::string& name) { return weights.at(name).detach(); };
  const std::string biases = ".block.0.layer.0.SelfAttention.relative_attention_bias.weight";
  prepared->embedding = weight("shared.weight");
  prepared->head = config.tie_word_embeddings ? prepared->embedding : weight("lm_head.weight");
  prepared->encoder_biases = weight("encoder" + biases);
  prepared->decoder_biases = weight("decoder" + biases).cpu();
  prepared->encoder_norm = weight("encoder.final_layer_norm.weight");
  prepared->decoder_norm = weight("decoder.final_layer_norm.weight");
  for (int64_t i = 0; i < config.num_layers; ++i) {
    prepared->encoder.push_back(PrepareBlock(weights, absl::StrCat("encoder.block.", i, ".layer."),
                                             /*decoder=*/false, config.gated));
  }
  for (int64_t i = 0; i < config.num_decoder_layers; ++i) {
    prepared->decoder.push_back(PrepareBlock(weights, absl::StrCat("decoder.block.", i, ".layer."),
                                             /*decoder=*/true, config.gated));
  }
  // Fused or not, each weight is held once.
  for (const auto& [name, tensor] : weights) prepared->memory_bytes += tensor.nbytes();
  prepared_ = std::move(prepared);
}

TorchScorer::TorchScorer(std::unique_ptr<const Prepared> prepared)
    : prepared_(std::move(prepared)) {}

TorchScorer::~TorchScorer() = default;

std::unique_ptr<const T5Scorer> TorchScorer::With(const Adapter& adapter) const {
  const c10::InferenceMode inference;
  auto prepared = std::make_unique<Prepared>(*prepared_);
  prepared->memory_bytes = 0;
  const auto add = [&](const char* stack, std::vector<Block>& blocks) {
    for (size_t i = 0; i < blocks.size(); ++i) {
      prepared->memory_bytes += Add(adapter, absl::StrCat(stack, ".block.", i, ".layer."),
                                    prepared->config.gated, blocks[i]);
    }
  };
  add("encoder", prepared->encoder);
  add("decoder", prepared->decoder);
  return std::unique_ptr<const T5Scorer>(new TorchScorer(std::move(prepared)));
}

std::vector<std::vector<float>> TorchScorer::Score(absl::Span<const Input> inputs) const {
  if (inputs.empty()) return {};
  const c10::InferenceMode inference;
  const Prepared& model = *prepared_;
  std::vector<std::vector<int32_t>> texts;
  for (const Input& input : inputs) texts.push_back(*input.tokens);
  const PackedTokens tokens = PackedTokens::Of(texts, model.embedding.device());
  Tensor states = model.Decode(inputs, model.Encode(tokens), tokens.lengths);
  if (model.config.tie_word_embeddings) {
    states.mul_(1 / std::sqrt(static_cast<double>(model.config.d_model)));
  }

  const std::map<int32_t, int64_t> columns = ChildColumns(inputs);
  std::vector<int32_t> children;
  for (const auto& entry : columns) children.push_back(entry.first);
  const Tensor rows_of_head =
      model.head.index_select(0, PackedTokens::Of({children}, model.embedding.device()).ids);
  const Tensor logits = at::linear(states, rows_of_head).cpu();  // [rows, columns]

  std::vector<std::vector<float>> scores;
  const float* of_row = logits.const_data_ptr<float>();
  for (const Input& input : inputs) {
    std::vector<std::vector<float>> of_children;
    for (const LabelTrie::Row& row : input.labels->rows()) {
      std::vector<float>& children = of_children.emplace_back();
      for (int32_t token : row.child_tokens) children.push_back(of_row[columns.at(token)]);
      of_row += columns.size();
    }
    scores.push_back(LogProbabilities(*input.labels, of_children));
  }
  return scores;
}

int64_t TorchScorer::memory_bytes() const { return prepared_->memory_bytes; }

}  // namespace tasuki
