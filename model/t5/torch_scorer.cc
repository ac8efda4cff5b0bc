#include "model/t5/torch_scorer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/full.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/tensor.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "model/t5/adapter.h"
#include "model/t5/attention.h"
#include "model/t5/functions.h"
#include "model/t5/t5.h"

namespace tasuki {
namespace {

using at::Tensor;

constexpr int64_t kAligned = 16;       // see attention.h
constexpr int64_t kInputMultiple = 8;  // of lengths: more of them would be more graphs

// Weights, which scorers share, and what an adapter adds to their product: to some of the outputs
// B (A x). All are of one type, and so is the product.
struct Product {
  struct Part {
    int64_t first_output;
    Adapter::Pair pair;
  };
  Tensor weights;
  std::vector<Part> added;

  Tensor operator()(const Tensor& rows) const {
    const Tensor x = rows.to(weights.scalar_type());
    Tensor y = at::linear(x, weights);
    for (const auto& [output, pair] : added) {
      y.narrow(1, output, pair.b.size(0)).add_(at::linear(at::linear(x, pair.a), pair.b));
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

// Products in `type`, norms in fp32.
Block PrepareBlock(const WeightMap& weights, const std::string& prefix, bool decoder, bool gated,
                   at::ScalarType type) {
  const auto norm = [&](const std::string& name) {
    return weights.at(absl::StrCat(prefix, name)).detach();
  };
  const auto weight = [&](const std::string& name) { return norm(name).to(type); };
  Block block;
  block.self_norm = norm("0.layer_norm.weight");
  block.self_in.weights =
      at::cat({weight("0.SelfAttention.q.weight"), weight("0.SelfAttention.k.weight"),
               weight("0.SelfAttention.v.weight")});
  block.self_out.weights = weight("0.SelfAttention.o.weight");
  if (decoder) {
    block.cross_norm = norm("1.layer_norm.weight");
    block.cross_queries.weights = weight("1.EncDecAttention.q.weight");
    block.cross_keys_values.weights =
        at::cat({weight("1.EncDecAttention.k.weight"), weight("1.EncDecAttention.v.weight")});
    block.cross_out.weights = weight("1.EncDecAttention.o.weight");
  }
  const std::string last = decoder ? "2." : "1.";
  block.feed_forward_norm = norm(last + "layer_norm.weight");
  if (gated) block.feed_forward_gate.weights = weight(last + "DenseReluDense.wi_0.weight");
  block.feed_forward_in.weights =
      weight(last + (gated ? "DenseReluDense.wi_1.weight" : "DenseReluDense.wi.weight"));
  block.feed_forward_out.weights = weight(last + "DenseReluDense.wo.weight");
  return block;
}

// Adds an adapter to a block, and answers its bytes.
int64_t Add(const Adapter& adapter, const std::string& prefix, bool gated, Block& block) {
  int64_t bytes = 0;
  const auto add = [&](Product& product, const std::vector<const char*>& weights) {
    for (size_t i = 0; i < weights.size(); ++i) {
      Adapter::Pair pair = adapter.Of(absl::StrCat(prefix, weights[i], ".weight"));
      if (!pair.a.defined()) continue;
      const at::ScalarType type = product.weights.scalar_type();
      pair = {pair.a.to(type), pair.b.to(type)};
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

// Of a rectangle of texts and one of the rows of their tries.
struct Sizes {
  int64_t sequences, input, rows;

  int64_t bucket_columns() const { return (rows + kAligned - 1) / kAligned * kAligned; }
};

Sizes SizesOf(absl::Span<const T5Scorer::Input> inputs, const Group& group) {
  size_t rows = 0;
  for (const int64_t text : group) rows = std::max(rows, inputs[text].labels->rows().size());
  const auto longest = static_cast<int64_t>(inputs[group[0]].tokens->size());
  return {RoundUpSize(static_cast<int64_t>(group.size())), RoundUpSize(longest, kInputMultiple),
          RoundUpSize(static_cast<int64_t>(rows))};
}

// What Compute reads. Rows of a trie see themselves and their ancestors, at the distances of their
// depths; `unseen` is the bucket of all else, and what is padding sees itself.
void WriteGroup(absl::Span<const T5Scorer::Input> inputs, const Group& group, const Sizes& sizes,
                const T5Config& config, NumberWriter& writer) {
  const int64_t unseen = config.relative_attention_num_buckets;
  std::vector<int64_t> ids(sizes.sequences * sizes.input, config.pad_token_id);
  std::vector<int64_t> lengths(sizes.sequences, 1);
  std::vector<int64_t> row_ids(sizes.sequences * sizes.rows, config.pad_token_id);
  std::vector<int64_t> buckets(sizes.sequences * sizes.rows * sizes.bucket_columns(), unseen);
  const auto bucket = [&](int64_t sequence, int64_t row, int64_t seen) -> int64_t& {
    return buckets[(sequence * sizes.rows + row) * sizes.bucket_columns() + seen];
  };
  for (int64_t s = 0; s < sizes.sequences; ++s) {
    for (int64_t row = 0; row < sizes.rows; ++row) bucket(s, row, row) = 0;
  }
  for (size_t s = 0; s < group.size(); ++s) {
    const T5Scorer::Input& input = inputs[group[s]];
    lengths[s] = static_cast<int64_t>(input.tokens->size());
    std::copy(input.tokens->begin(), input.tokens->end(), ids.begin() + s * sizes.input);
    const std::vector<LabelTrie::Row>& rows = input.labels->rows();
    for (int row = 0; row < static_cast<int>(rows.size()); ++row) {
      row_ids[s * sizes.rows + row] =
          rows[row].parent < 0 ? config.decoder_start_token_id : rows[row].token;
      for (int seen = row; seen >= 0; seen = rows[seen].parent) {
        bucket(s, row, seen) = RelativePositionBucket(rows[seen].depth - rows[row].depth,
                                                      /*bidirectional=*/false, config);
      }
    }
  }
  writer.Add(ids);
  writer.Add(lengths);
  writer.Add(PositionBuckets(sizes.input, /*bidirectional=*/true, config));
  writer.Add(row_ids);
  writer.Add(buckets);
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
  at::ScalarType type;  // of products
  Tensor embedding, head;
  Tensor encoder_biases;
  Tensor decoder_biases;  // and a last row for what is unseen
  std::vector<Block> encoder, decoder;
  Tensor encoder_norm, decoder_norm;
  int64_t memory_bytes = 0;

  Tensor Norm(const Tensor& x, const Tensor& weight) const {
    return RmsNorm(x, weight, config.layer_norm_epsilon);
  }
  // States of the rows of the tries: [sequences * rows, d_model].
  Tensor Compute(const Sizes& sizes, const Tensor& numbers) const;
};

Tensor TorchScorer::Prepared::Compute(const Sizes& sizes, const Tensor& numbers) const {
  NumberReader reader(numbers);
  const Tensor ids = reader.Next(sizes.sequences * sizes.input);
  const Tensor lengths = reader.Next(sizes.sequences);
  const Tensor distances = reader.Next(2 * sizes.input - 1);
  const Tensor row_ids = reader.Next(sizes.sequences * sizes.rows);
  const Tensor buckets = reader.Next(sizes.sequences * sizes.rows * sizes.bucket_columns())
                             .view({sizes.sequences, sizes.rows, sizes.bucket_columns()});

  const Tensor bias =
      PositionBias(DistanceBias(encoder_biases, distances, /*bidirectional=*/true), lengths, type);
  Tensor x = at::embedding(embedding, ids);
  for (const Block& block : encoder) {
    const Tensor seen = AttendToSelfPadded(block.self_in(Norm(x, block.self_norm)), sizes.sequences,
                                           config.num_heads, bias, 0);
    x.add_(block.self_out(seen));
    x.add_(FeedForward(block, Norm(x, block.feed_forward_norm)));
  }
  const Tensor encoded = Norm(x, encoder_norm).to(type);

  const Tensor row_bias = at::embedding(decoder_biases, buckets)
                              .permute({0, 3, 1, 2})
                              .contiguous()
                              .narrow(3, 0, sizes.rows);
  const Tensor text_bias = KeyBias(lengths, sizes.input, type);
  x = at::embedding(embedding, row_ids);
  for (const Block& block : decoder) {
    const Tensor seen = AttendToSelfPadded(block.self_in(Norm(x, block.self_norm)), sizes.sequences,
                                           config.num_heads, row_bias, 0);
    x.add_(block.self_out(seen));
    const Tensor found = AttendToOthersPadded(block.cross_queries(Norm(x, block.cross_norm)),
                                              block.cross_keys_values(encoded), sizes.sequences,
                                              config.num_heads, text_bias, 0);
    x.add_(block.cross_out(found));
    x.add_(FeedForward(block, Norm(x, block.feed_forward_norm)));
  }
  return Norm(x, decoder_norm);
}

TorchScorer::TorchScorer(const T5Config& config, const WeightMap& weights, Precision precision,
                         std::unique_ptr<GraphMaker> graphs)
    : graphs_(weights.at("shared.weight").device(), std::move(graphs)) {
  const c10::InferenceMode inference;
  auto prepared = std::make_unique<Prepared>();
  prepared->config = config;
  prepared->type = precision == Precision::kBf16 ? at::kBFloat16 : at::kFloat;
  const auto weight = [&](const std::string& name) { return weights.at(name).detach(); };
  const std::string biases = ".block.0.layer.0.SelfAttention.relative_attention_bias.weight";
  prepared->embedding = weight("shared.weight");
  prepared->head = config.tie_word_embeddings ? prepared->embedding : weight("lm_head.weight");
  prepared->encoder_biases = weight("encoder" + biases);
  const Tensor table = weight("decoder" + biases);
  prepared->decoder_biases =
      at::cat({table, at::full({1, config.num_heads}, -std::numeric_limits<float>::infinity(),
                               table.options())})
          .to(prepared->type);
  prepared->encoder_norm = weight("encoder.final_layer_norm.weight");
  prepared->decoder_norm = weight("decoder.final_layer_norm.weight");
  for (int64_t i = 0; i < config.num_layers; ++i) {
    prepared->encoder.push_back(PrepareBlock(weights, absl::StrCat("encoder.block.", i, ".layer."),
                                             /*decoder=*/false, config.gated, prepared->type));
  }
  for (int64_t i = 0; i < config.num_decoder_layers; ++i) {
    prepared->decoder.push_back(PrepareBlock(weights, absl::StrCat("decoder.block.", i, ".layer."),
                                             /*decoder=*/true, config.gated, prepared->type));
  }
  // Fused or not, each weight is held once.
  for (const auto& [name, tensor] : weights) {
    const bool product = tensor.dim() == 2 && name != "shared.weight" && name != "lm_head.weight";
    prepared->memory_bytes += tensor.numel() * (product && precision == Precision::kBf16 ? 2 : 4);
  }
  prepared_ = std::move(prepared);
}

TorchScorer::TorchScorer(std::unique_ptr<const Prepared> prepared, at::Device device)
    : prepared_(std::move(prepared)), graphs_(device) {}

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
  const at::Device device = prepared->embedding.device();
  return std::unique_ptr<const T5Scorer>(new TorchScorer(std::move(prepared), device));
}

std::vector<std::vector<float>> TorchScorer::Score(absl::Span<const Input> inputs,
                                                   Pass& pass) const {
  pass = {};
  if (inputs.empty()) return {};
  const absl::Time begin = absl::Now();
  const c10::InferenceMode inference;
  const absl::MutexLock lock(&mutex_);
  const std::map<int32_t, int64_t> columns = ChildColumns(inputs);
  std::vector<int64_t> children, lengths;
  for (const auto& entry : columns) children.push_back(entry.first);
  for (const Input& input : inputs) {
    lengths.push_back(static_cast<int64_t>(input.tokens->size()));
  }
  const at::Device device = prepared_->embedding.device();
  const Tensor head = prepared_->head.index_select(0, at::tensor(children, at::kLong).to(device));

  // All groups are on their way before the host waits for the first.
  const std::vector<Group> groups = GroupByLength(lengths);
  std::vector<Tensor> logits;
  for (const Group& group : groups) {
    logits.push_back(LogitsOf(inputs, group, head));
    const Sizes sizes = SizesOf(inputs, group);
    pass.padding_tokens += sizes.sequences * sizes.input;
  }
  for (const int64_t length : lengths) pass.padding_tokens -= length;
  std::vector<std::vector<float>> scores(inputs.size());
  for (size_t g = 0; g < groups.size(); ++g) {
    const Tensor of_group = logits[g].cpu();  // [sequences, rows, columns]
    for (size_t s = 0; s < groups[g].size(); ++s) {
      const LabelTrie& labels = *inputs[groups[g][s]].labels;
      const float* of_row = of_group.const_data_ptr<float>() + s * of_group.stride(0);
      std::vector<std::vector<float>> of_children;
      for (const LabelTrie::Row& row : labels.rows()) {
        std::vector<float>& values = of_children.emplace_back();
        for (int32_t token : row.child_tokens) values.push_back(of_row[columns.at(token)]);
        of_row += of_group.stride(1);
      }
      scores[groups[g][s]] = LogProbabilities(labels, of_children);
    }
  }
  pass.encode = absl::Now() - begin;
  return scores;
}

// Of the rows of `head`: [sequences, rows, rows of head].
Tensor TorchScorer::LogitsOf(absl::Span<const Input> inputs, const Group& group,
                             const Tensor& head) const {
  const Sizes sizes = SizesOf(inputs, group);
  NumberWriter writer;
  WriteGroup(inputs, group, sizes, prepared_->config, writer);
  Tensor states = graphs_.Run({sizes.sequences, sizes.input, sizes.rows}, writer.numbers(),
                              [sizes, model = prepared_.get()](const Tensor& numbers) {
                                return model->Compute(sizes, numbers);
                              });
  if (prepared_->config.tie_word_embeddings) {
    states = states * (1 / std::sqrt(static_cast<double>(prepared_->config.d_model)));
  }
  return at::linear(states, head).view({sizes.sequences, sizes.rows, -1});
}

int64_t TorchScorer::memory_bytes() const { return prepared_->memory_bytes; }

}  // namespace tasuki
