#include "model/t5/cpu_scorer.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "model/t5/attention.h"
#include "model/t5/team.h"

namespace tasuki {
namespace {

using at::Tensor;

// Tokens that one thread takes through the encoder at once: their activations stay in its cache.
constexpr int64_t kChunkTokens = 256;
// With fewer tokens for each thread, or texts that do not divide well, the threads share each
// product instead of the texts.
constexpr int64_t kTokensForOneThread = 96;
constexpr int64_t kQueries = 64;  // of attention at once
// Rows of tries that are decoded at once, unless a single text has more: each needs several times
// heads · d_model floats.
constexpr int64_t kDecoderRows = 256;

// What an adapter adds to a product W x: for some of its outputs B (A x).
struct LowRank {
  struct Part {
    int64_t first_output, first_rank;
    PackedWeights b;  // [outputs, rank], fp32
  };
  int64_t ranks = 0;       // of all parts
  Tensor a;                // [width, ranks], for an fp32 operand: no panel is as narrow
  PackedWeights packed_a;  // [ranks, width], for others
  std::vector<Part> parts;
};

// Weights, which scorers share, and what comes to their product; that may be null.
struct Product {
  std::shared_ptr<const PackedWeights> weights;
  std::shared_ptr<const LowRank> added;
};

struct Layer {
  std::vector<float> self_norm, cross_norm, feed_forward_norm;
  Product self_in, self_out;         // self_in: queries, keys, values
  Product cross_queries, cross_out;  // decoder only, as are the next four
  Tensor cross_keys;                 // [inner, d_model], as it is
  Adapter::Pair cross_keys_added;    // likewise; or none
  std::vector<std::shared_ptr<const PackedWeights>> cross_values;  // of each head; fp32
  std::shared_ptr<const LowRank> cross_values_added;               // a part each head; or null
  Product feed_forward_in, feed_forward_gate, feed_forward_out;    // gate or none
};

// Activations of some rows.
struct Buffers {
  Aligned<float> x;            // the residual stream [rows, d_model]
  Aligned<float> wide, gate;   // [rows, widest output of a product]
  Aligned<float> seen;         // what attention answers [rows, inner]
  Aligned<float> low;          // A x [rows, low_width]; if there is an adapter
  Aligned<int32_t> left;       // a left operand [rows, groups]
  Aligned<float> left_scales;  // [rows]
};

// What a thread needs for attention.
struct Scratch {
  PackedWeights keys;
  Aligned<float> scores;  // [kQueries, longest]
  int64_t longest;
  Aligned<float> biases;  // of the encoder, [heads, 2 longest - 1]: by distance + longest - 1
};

// Sequences that go through the encoder together, one after the other.
struct Chunk {
  std::vector<const std::vector<int32_t>*> sequences;
  std::vector<int64_t> begin;   // first row of each, and the number of rows
  std::vector<int64_t> target;  // of each row among all rows of the call
};

// The rows of all texts' tries, one after the other.
struct DecoderRows {
  struct Row {
    int32_t token;
    int64_t parent;  // index of its row, or -1
    int depth;
  };
  std::vector<Row> rows;
  std::vector<int64_t> begin;  // first row of each text, and the number of rows
};

// Each sequence goes to the chunk that has the fewest tokens, the longest first.
std::vector<Chunk> Chunks(const std::vector<const std::vector<int32_t>*>& sequences,
                          const std::vector<int64_t>& first, int64_t count) {
  std::vector<size_t> order(sequences.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return sequences[a]->size() > sequences[b]->size(); });
  std::vector<Chunk> chunks(std::min<int64_t>(count, static_cast<int64_t>(sequences.size())));
  for (Chunk& chunk : chunks) chunk.begin.push_back(0);
  for (size_t i : order) {
    Chunk& chunk = *std::min_element(
        chunks.begin(), chunks.end(),
        [](const Chunk& a, const Chunk& b) { return a.begin.back() < b.begin.back(); });
    const int64_t length = static_cast<int64_t>(sequences[i]->size());
    chunk.sequences.push_back(sequences[i]);
    chunk.begin.push_back(chunk.begin.back() + length);
    for (int64_t row = 0; row < length; ++row) chunk.target.push_back(first[i] + row);
  }
  return chunks;
}

DecoderRows RowsOf(absl::Span<const T5Scorer::Input> inputs, const T5Config& config) {
  DecoderRows result;
  for (const T5Scorer::Input& input : inputs) {
    const int64_t begin = static_cast<int64_t>(result.rows.size());
    result.begin.push_back(begin);
    for (const LabelTrie::Row& row : input.labels->rows()) {
      const bool root = row.parent < 0;
      result.rows.push_back({root ? config.decoder_start_token_id : row.token,
                             root ? -1 : begin + row.parent, row.depth});
    }
  }
  result.begin.push_back(static_cast<int64_t>(result.rows.size()));
  return result;
}

std::vector<float> ToVector(const Tensor& tensor) {
  const float* data = tensor.const_data_ptr<float>();
  return std::vector<float>(data, data + tensor.numel());
}

}  // namespace

struct CpuScorer::Network {
  T5Config config;
  Precision precision;
  const Kernels& kernels;
  Tensor embedding, head;
  std::vector<Layer> encoder, decoder;
  std::vector<float> encoder_norm, decoder_norm;
  // For each head and distance, from -max_distance to max_distance, beyond which nothing changes.
  std::vector<std::vector<float>> encoder_biases, decoder_biases;
  int64_t bytes = 0;      // of what only this network holds
  int64_t low_width = 0;  // of Buffers::low

  int64_t inner() const { return config.num_heads * config.d_kv; }
  int64_t panels(const PackedWeights& weights) const { return Panels(kernels, weights.outputs); }
  float Bias(const std::vector<float>& of_head, int64_t distance) const {
    const int64_t most = config.relative_attention_max_distance;
    return of_head[std::clamp(distance, -most, most) + most];
  }

  // ---- Preparation

  PackedWeights Pack(const Tensor& weights, Precision as) const;
  std::shared_ptr<const PackedWeights> Share(const Tensor& weights, Precision as);
  Layer Prepare(const WeightMap& weights, const std::string& block, bool is_decoder);
  std::vector<std::vector<float>> Biases(const Tensor& table, bool bidirectional) const;
  // What `adapter` adds to the product of these weights, one below the other: a part for each
  // `outputs` of them, or for each weight. Null if nothing.
  std::shared_ptr<const LowRank> Added(const Adapter& adapter,
                                       const std::vector<std::string>& weights, Precision as,
                                       int64_t outputs = 0);
  void Add(const Adapter& adapter, const std::string& block, Layer& layer);
  Buffers MakeBuffers(int64_t rows) const;
  Scratch MakeScratch(int64_t longest) const;

  // ---- The network. All threads of a team call these together, and each does its share. What one
  // function writes may be read after the team has met.

  // buffers.left for rows of that width, from `row` on.
  Operand LeftOperand(const Buffers& buffers, int64_t width, int64_t row) const;
  // x divided by its root mean square and times the weight, as left operand.
  Operand Norm(const Member& member, const Buffers& buffers, int64_t rows,
               const std::vector<float>& weight) const;
  // `x` as left operand: in fp32 itself, and nothing is to be waited for.
  Operand Convert(const Member& member, float* x, int64_t rows, int64_t width,
                  const Buffers& buffers) const;
  // A x of some rows.
  void MultiplyLow(const Operand& x, int64_t rows, const LowRank& added, const Output& low) const;
  // The threads meet in it if there is an adapter: what is in buffers.low may not be needed any
  // more.
  void Multiply(const Member& member, const Operand& left, int64_t rows, const Product& product,
                const Output& output, const Buffers& buffers, int64_t first_panel = 0) const;
  void FeedForward(const Member& member, const Layer& layer, const Buffers& buffers,
                   int64_t rows) const;

  void Encode(const Member& member, const Chunk& chunk, const Buffers& buffers, Scratch& scratch,
              float* encoded) const;
  void AttendToSequence(const float* queries, int64_t length, int64_t head, Scratch& scratch,
                        float* seen) const;

  struct Decoding;
  void Decode(absl::Span<const Input> inputs, absl::Span<const int64_t> first, const float* encoded,
              int threads, std::vector<Scratch>& scratch,
              std::vector<std::vector<float>>& scores) const;
  void Decode(const Member& member, const Decoding& decoding, Scratch& scratch) const;
  void AttendToAncestors(const Member& member, const DecoderRows& rows,
                         const Buffers& buffers) const;
  void AttendToText(const Member& member, const Layer& layer, const Decoding& decoding,
                    Scratch& scratch) const;
};

// What the threads share while they decode.
struct CpuScorer::Network::Decoding {
  const DecoderRows& rows;
  absl::Span<const int64_t> first;  // of each text's states
  const float* encoded;             // [states, d_model]
  Buffers buffers;
  std::vector<PackedWeights> states;  // of each text, as right operand
  Aligned<float> looks, mixed;  // [rows, heads, d_model]: queries through the key weights, and
                                // the weighted means of states
  std::vector<std::vector<float>>* logits;  // of each row's children
  absl::Span<const Input> inputs;
};

// ---- Preparation -------------------------------------------------------------------------------

PackedWeights CpuScorer::Network::Pack(const Tensor& weights, Precision as) const {
  const Tensor rows = weights.contiguous();
  PackedWeights packed = MakePacked(kernels, as, rows.size(0), rows.size(1));
  kernels.pack(rows.const_data_ptr<float>(), rows.size(1), packed);
  return packed;
}

std::shared_ptr<const PackedWeights> CpuScorer::Network::Share(const Tensor& weights,
                                                               Precision as) {
  auto packed = std::make_shared<const PackedWeights>(Pack(weights, as));
  bytes += packed->bytes();
  return packed;
}

Layer CpuScorer::Network::Prepare(const WeightMap& weights, const std::string& block,
                                  bool is_decoder) {
  const auto weight = [&](const std::string& name) { return weights.at(block + name).detach(); };
  Layer layer;
  layer.self_norm = ToVector(weight("0.layer_norm.weight"));
  layer.self_in.weights =
      Share(at::cat({weight("0.SelfAttention.q.weight"), weight("0.SelfAttention.k.weight"),
                     weight("0.SelfAttention.v.weight")}),
            precision);
  layer.self_out.weights = Share(weight("0.SelfAttention.o.weight"), precision);
  if (is_decoder) {
    layer.cross_norm = ToVector(weight("1.layer_norm.weight"));
    layer.cross_queries.weights = Share(weight("1.EncDecAttention.q.weight"), precision);
    layer.cross_keys = weight("1.EncDecAttention.k.weight").contiguous();
    bytes += layer.cross_keys.nbytes();
    for (const Tensor& head : weight("1.EncDecAttention.v.weight").split(config.d_kv)) {
      layer.cross_values.push_back(Share(head, Precision::kFp32));
    }
    layer.cross_out.weights = Share(weight("1.EncDecAttention.o.weight"), precision);
  }
  const std::string last = is_decoder ? "2." : "1.";
  layer.feed_forward_norm = ToVector(weight(last + "layer_norm.weight"));
  const std::string part = last + "DenseReluDense.";
  if (config.gated) {
    layer.feed_forward_gate.weights = Share(weight(part + "wi_0.weight"), precision);
  }
  layer.feed_forward_in.weights =
      Share(weight(part + (config.gated ? "wi_1.weight" : "wi.weight")), precision);
  layer.feed_forward_out.weights = Share(weight(part + "wo.weight"), precision);
  return layer;
}

std::shared_ptr<const LowRank> CpuScorer::Network::Added(const Adapter& adapter,
                                                         const std::vector<std::string>& weights,
                                                         Precision as, int64_t outputs) {
  auto added = std::make_shared<LowRank>();
  std::vector<Tensor> a;
  for (size_t i = 0; i < weights.size(); ++i) {
    const Adapter::Pair pair = adapter.Of(weights[i]);
    if (!pair.a.defined()) continue;
    int64_t output = static_cast<int64_t>(i) * pair.b.size(0);
    for (const Tensor& b : pair.b.split(outputs > 0 ? outputs : pair.b.size(0))) {
      added->parts.push_back({output, added->ranks, Pack(b, Precision::kFp32)});
      output += b.size(0);
    }
    a.push_back(pair.a);
    added->ranks += pair.a.size(0);
  }
  if (a.empty()) return nullptr;
  if (as == Precision::kFp32) {
    added->a = at::cat(a).t().contiguous();
    bytes += added->a.nbytes();
  } else {
    added->packed_a = Pack(at::cat(a), as);
  }
  const auto count = [&](const PackedWeights& packed) {
    bytes += panels(packed) * kernels.panel * packed.groups * 4;
  };
  count(added->packed_a);
  for (const LowRank::Part& part : added->parts) count(part.b);
  low_width = std::max(low_width, added->ranks * (outputs > 0 ? config.num_heads : 1));
  return added;
}

void CpuScorer::Network::Add(const Adapter& adapter, const std::string& block, Layer& layer) {
  const std::string self = block + "0.SelfAttention.", cross = block + "1.EncDecAttention.";
  layer.self_in.added =
      Added(adapter, {self + "q.weight", self + "k.weight", self + "v.weight"}, precision);
  layer.self_out.added = Added(adapter, {self + "o.weight"}, precision);
  const bool is_decoder = layer.cross_keys.defined();
  if (is_decoder) {
    layer.cross_queries.added = Added(adapter, {cross + "q.weight"}, precision);
    layer.cross_keys_added = adapter.Of(cross + "k.weight");
    if (layer.cross_keys_added.a.defined()) {
      auto& [a, b] = layer.cross_keys_added;
      a = a.contiguous();
      b = b.contiguous();
      bytes += a.nbytes() + b.nbytes();
      low_width = std::max(low_width, a.size(0) * config.num_heads);
    }
    layer.cross_values_added = Added(adapter, {cross + "v.weight"}, Precision::kFp32, config.d_kv);
    layer.cross_out.added = Added(adapter, {cross + "o.weight"}, precision);
  }
  const std::string part = block + (is_decoder ? "2." : "1.") + "DenseReluDense.";
  if (config.gated)
    layer.feed_forward_gate.added = Added(adapter, {part + "wi_0.weight"}, precision);
  layer.feed_forward_in.added =
      Added(adapter, {part + (config.gated ? "wi_1.weight" : "wi.weight")}, precision);
  layer.feed_forward_out.added = Added(adapter, {part + "wo.weight"}, precision);
}

std::vector<std::vector<float>> CpuScorer::Network::Biases(const Tensor& table,
                                                           bool bidirectional) const {
  const auto of_bucket = table.accessor<float, 2>();
  const int64_t most = config.relative_attention_max_distance;
  std::vector<std::vector<float>> biases(config.num_heads);
  for (int64_t distance = -most; distance <= most; ++distance) {
    const int64_t bucket = RelativePositionBucket(distance, bidirectional, config);
    for (int64_t h = 0; h < config.num_heads; ++h) biases[h].push_back(of_bucket[bucket][h]);
  }
  return biases;
}

Buffers CpuScorer::Network::MakeBuffers(int64_t rows) const {
  const int64_t widest = std::max({3 * inner(), config.d_ff, config.d_model});
  Buffers buffers;
  buffers.x = MakeAligned<float>(rows * config.d_model);
  buffers.wide = MakeAligned<float>(rows * widest);
  if (config.gated) buffers.gate = MakeAligned<float>(rows * config.d_ff);
  buffers.seen = MakeAligned<float>(rows * inner());
  if (low_width > 0) buffers.low = MakeAligned<float>(rows * low_width);
  buffers.left = MakeAligned<int32_t>(rows * widest);
  buffers.left_scales = MakeAligned<float>(rows);
  return buffers;
}

Scratch CpuScorer::Network::MakeScratch(int64_t longest) const {
  Scratch scratch;
  scratch.longest = longest;
  scratch.keys = MakePacked(kernels, Precision::kFp32, longest, config.d_kv);
  scratch.scores = MakeAligned<float>(kQueries * longest);
  scratch.biases = MakeAligned<float>(config.num_heads * (2 * longest - 1));
  float* bias = scratch.biases.get();
  for (const std::vector<float>& of_head : encoder_biases) {
    for (int64_t distance = 1 - longest; distance < longest; ++distance) {
      *bias++ = Bias(of_head, distance);
    }
  }
  return scratch;
}

// ---- The network -------------------------------------------------------------------------------

Operand CpuScorer::Network::LeftOperand(const Buffers& buffers, int64_t width, int64_t row) const {
  const int64_t size = GroupSize(precision), groups = (width + size - 1) / size;
  float* scales = precision == Precision::kInt8 ? buffers.left_scales.get() + row : nullptr;
  return {precision, buffers.left.get() + row * groups, groups, scales};
}

Operand CpuScorer::Network::Norm(const Member& member, const Buffers& buffers, int64_t rows,
                                 const std::vector<float>& weight) const {
  const int64_t d = config.d_model;
  const auto [begin, end] = member.Share(rows);
  kernels.norm(buffers.x.get() + begin * d, end - begin, d, weight.data(),
               static_cast<float>(config.layer_norm_epsilon), LeftOperand(buffers, d, begin));
  return LeftOperand(buffers, d, 0);
}

Operand CpuScorer::Network::Convert(const Member& member, float* x, int64_t rows, int64_t width,
                                    const Buffers& buffers) const {
  if (precision == Precision::kFp32) return {precision, x, width};
  const auto [begin, end] = member.Share(rows);
  kernels.convert(x + begin * width, width, end - begin, width, LeftOperand(buffers, width, begin));
  member.Meet();
  return LeftOperand(buffers, width, 0);
}

void CpuScorer::Network::MultiplyLow(const Operand& x, int64_t rows, const LowRank& added,
                                     const Output& low) const {
  if (x.precision != Precision::kFp32) {
    return kernels.multiply(x, rows, added.packed_a, 0, panels(added.packed_a), low);
  }
  kernels.multiply_plain(static_cast<const float*>(x.data), x.stride, rows,
                         added.a.const_data_ptr<float>(), added.ranks, added.a.size(0), added.ranks,
                         low);
}

void CpuScorer::Network::Multiply(const Member& member, const Operand& left, int64_t rows,
                                  const Product& product, const Output& output,
                                  const Buffers& buffers, int64_t first_panel) const {
  const bool adds = product.added != nullptr, cuts = output.mode == OutputMode::kRelu;
  const auto [begin, end] = member.Share(panels(*product.weights) - first_panel);
  kernels.multiply(left, rows, *product.weights, first_panel + begin, first_panel + end,
                   {output.data, output.stride, adds && cuts ? OutputMode::kSet : output.mode});
  if (!adds) return;
  const LowRank& added = *product.added;
  const int64_t ranks = added.ranks;
  const auto [first, last] = member.Share(rows);
  const Operand from = {left.precision, static_cast<int32_t*>(left.data) + first * left.stride,
                        left.stride, left.scales == nullptr ? nullptr : left.scales + first};
  MultiplyLow(from, last - first, added, {buffers.low.get() + first * ranks, ranks});
  member.Meet();
  for (const LowRank::Part& part : added.parts) {
    if (part.first_output + part.b.outputs <= first_panel * kernels.panel) continue;
    const auto [first_of_part, last_of_part] = member.Share(panels(part.b));
    kernels.multiply({Precision::kFp32, buffers.low.get() + part.first_rank, ranks}, rows, part.b,
                     first_of_part, last_of_part,
                     {output.data + part.first_output, output.stride,
                      cuts ? OutputMode::kAddRelu : OutputMode::kAdd});
  }
}

void CpuScorer::Network::FeedForward(const Member& member, const Layer& layer,
                                     const Buffers& buffers, int64_t rows) const {
  const int64_t d_ff = config.d_ff;
  const Operand normed = Norm(member, buffers, rows, layer.feed_forward_norm);
  member.Meet();
  float* hidden = buffers.wide.get();
  Multiply(member, normed, rows, layer.feed_forward_in,
           {hidden, d_ff, config.gated ? OutputMode::kSet : OutputMode::kRelu}, buffers);
  if (config.gated) {
    if (layer.feed_forward_in.added != nullptr) member.Meet();
    Multiply(member, normed, rows, layer.feed_forward_gate, {buffers.gate.get(), d_ff}, buffers);
  }
  member.Meet();
  if (config.gated) {
    const auto [begin, end] = member.Share(rows);
    kernels.gate(buffers.gate.get() + begin * d_ff, hidden + begin * d_ff, (end - begin) * d_ff);
    hidden = buffers.gate.get();
    member.Meet();
  }
  const Operand left = Convert(member, hidden, rows, d_ff, buffers);
  Multiply(member, left, rows, layer.feed_forward_out,
           {buffers.x.get(), config.d_model, OutputMode::kAdd}, buffers);
  member.Meet();
}

// Of one head: queries, keys and values of a sequence are 3 inner() floats from row to row.
void CpuScorer::Network::AttendToSequence(const float* queries, int64_t length, int64_t head,
                                          Scratch& scratch, float* seen) const {
  const int64_t stride = 3 * inner();
  scratch.keys.outputs = length;
  kernels.pack(queries + inner(), stride, scratch.keys);
  const float* biases =
      scratch.biases.get() + head * (2 * scratch.longest - 1) + scratch.longest - 1;
  for (int64_t begin = 0; begin < length; begin += kQueries) {
    const int64_t count = std::min(kQueries, length - begin);
    float* scores = scratch.scores.get();
    const Operand left = {Precision::kFp32, const_cast<float*>(queries + begin * stride), stride};
    kernels.multiply(left, count, scratch.keys, 0, panels(scratch.keys), {scores, length});
    float sums[kQueries];
    for (int64_t i = 0; i < count; ++i) {
      sums[i] = kernels.softmax(scores + i * length, biases - (begin + i), length);
    }
    float* out = seen + begin * inner();
    kernels.multiply_plain(scores, length, count, queries + 2 * inner(), stride, length,
                           config.d_kv, {out, inner()});
    for (int64_t i = 0; i < count; ++i) kernels.scale(out + i * inner(), 1 / sums[i], config.d_kv);
  }
}

void CpuScorer::Network::Encode(const Member& member, const Chunk& chunk, const Buffers& buffers,
                                Scratch& scratch, float* encoded) const {
  const int64_t rows = chunk.begin.back(), d = config.d_model;
  const auto [first_row, last_row] = member.Share(rows);
  for (size_t s = 0; s < chunk.sequences.size(); ++s) {
    const int64_t begin = std::max(first_row, chunk.begin[s]);
    for (int64_t row = begin; row < std::min(last_row, chunk.begin[s + 1]); ++row) {
      const int32_t token = (*chunk.sequences[s])[row - chunk.begin[s]];
      std::copy_n(embedding.const_data_ptr<float>() + token * d, d, buffers.x.get() + row * d);
    }
  }

  for (const Layer& layer : encoder) {
    const Operand normed = Norm(member, buffers, rows, layer.self_norm);
    member.Meet();
    Multiply(member, normed, rows, layer.self_in, {buffers.wide.get(), 3 * inner()}, buffers);
    member.Meet();
    const int64_t sequences = static_cast<int64_t>(chunk.sequences.size());
    const auto [begin, end] = member.Share(sequences * config.num_heads);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t sequence = i / config.num_heads, head = i % config.num_heads;
      const int64_t row = chunk.begin[sequence], length = chunk.begin[sequence + 1] - row;
      AttendToSequence(buffers.wide.get() + row * 3 * inner() + head * config.d_kv, length, head,
                       scratch, buffers.seen.get() + row * inner() + head * config.d_kv);
    }
    member.Meet();
    const Operand seen = Convert(member, buffers.seen.get(), rows, inner(), buffers);
    Multiply(member, seen, rows, layer.self_out, {buffers.x.get(), d, OutputMode::kAdd}, buffers);
    member.Meet();
    FeedForward(member, layer, buffers, rows);
  }

  for (int64_t row = first_row; row < last_row; ++row) {
    kernels.norm(buffers.x.get() + row * d, 1, d, encoder_norm.data(),
                 static_cast<float>(config.layer_norm_epsilon),
                 {Precision::kFp32, encoded + chunk.target[row] * d, d});
  }
}

void CpuScorer::Network::AttendToAncestors(const Member& member, const DecoderRows& rows,
                                           const Buffers& buffers) const {
  const int64_t stride = 3 * inner(), d_kv = config.d_kv;
  const auto [begin, end] = member.Share(static_cast<int64_t>(rows.rows.size()));
  for (int64_t i = begin; i < end; ++i) {
    for (int64_t h = 0; h < config.num_heads; ++h) {
      const auto part = [&](int64_t row, int64_t which) {
        return buffers.wide.get() + row * stride + which * inner() + h * d_kv;
      };
      float* seen = buffers.seen.get() + i * inner() + h * d_kv;
      // A root sees itself alone, with weight 1; its query and key were not computed.
      std::copy_n(part(i, 2), d_kv, seen);
      if (rows.rows[i].parent < 0) continue;
      const auto score = [&](int64_t row) {
        return kernels.dot(part(i, 0), part(row, 1), d_kv) +
               Bias(decoder_biases[h], rows.rows[row].depth - rows.rows[i].depth);
      };
      // The sum so far is relative to the largest score so far.
      float largest = score(i), sum = 1;
      for (int64_t row = rows.rows[i].parent; row >= 0; row = rows.rows[row].parent) {
        const float here = score(row), most = std::max(largest, here);
        const float before = std::exp(largest - most), now = std::exp(here - most);
        const float* values = part(row, 2);
        for (int64_t k = 0; k < d_kv; ++k) seen[k] = seen[k] * before + values[k] * now;
        sum = sum * before + now;
        largest = most;
      }
      kernels.scale(seen, 1 / sum, d_kv);
    }
  }
}

// Queries in buffers.wide, the answer goes to buffers.seen.
void CpuScorer::Network::AttendToText(const Member& member, const Layer& layer,
                                      const Decoding& decoding, Scratch& scratch) const {
  const int64_t d = config.d_model, heads = config.num_heads, d_kv = config.d_kv;
  const int64_t rows = decoding.rows.begin.back();
  const auto [first_head, last_head] = member.Share(heads);
  for (int64_t h = first_head; h < last_head; ++h) {
    const float* queries = decoding.buffers.wide.get() + h * d_kv;
    float* looks = decoding.looks.get() + h * d;
    kernels.multiply_plain(queries, inner(), rows,
                           layer.cross_keys.const_data_ptr<float>() + h * d_kv * d, d, d_kv, d,
                           {looks, heads * d});
    if (const auto& [a, b] = layer.cross_keys_added; a.defined()) {
      const int64_t rank = a.size(0);
      float* low = decoding.buffers.low.get() + h * rank;
      kernels.multiply_plain(queries, inner(), rows, b.const_data_ptr<float>() + h * d_kv * rank,
                             rank, d_kv, rank, {low, heads * rank});
      kernels.multiply_plain(low, heads * rank, rows, a.const_data_ptr<float>(), d, rank, d,
                             {looks, heads * d, OutputMode::kAdd});
    }
  }
  member.Meet();
  // The heads of all rows one after the other, whatever their text.
  const auto [begin, end] = member.Share(rows * heads);
  for (size_t text = 0; text < decoding.states.size(); ++text) {
    const PackedWeights& states = decoding.states[text];
    const int64_t length = states.outputs;
    const int64_t stop = std::min(end, decoding.rows.begin[text + 1] * heads);
    int64_t from = std::max(begin, decoding.rows.begin[text] * heads);
    while (from < stop) {
      const int64_t count = std::min(kQueries, stop - from);
      float* scores = scratch.scores.get();
      kernels.multiply({Precision::kFp32, decoding.looks.get() + from * d, d}, count, states, 0,
                       panels(states), {scores, length});
      float sums[kQueries];
      for (int64_t i = 0; i < count; ++i) {
        sums[i] = kernels.softmax(scores + i * length, nullptr, length);
      }
      float* mixed = decoding.mixed.get() + from * d;
      kernels.multiply_plain(scores, length, count, decoding.encoded + decoding.first[text] * d, d,
                             length, d, {mixed, d});
      for (int64_t i = 0; i < count; ++i) kernels.scale(mixed + i * d, 1 / sums[i], d);
      from += count;
    }
  }
  member.Meet();
  for (int64_t h = first_head; h < last_head; ++h) {
    const Operand mixed = {Precision::kFp32, decoding.mixed.get() + h * d, heads * d};
    float* seen = decoding.buffers.seen.get() + h * d_kv;
    kernels.multiply(mixed, rows, *layer.cross_values[h], 0, panels(*layer.cross_values[h]),
                     {seen, inner()});
    if (layer.cross_values_added != nullptr) {
      const LowRank& added = *layer.cross_values_added;
      const PackedWeights& b = added.parts[h].b;
      float* low = decoding.buffers.low.get() + h * added.ranks;
      MultiplyLow(mixed, rows, added, {low, heads * added.ranks});
      kernels.multiply({Precision::kFp32, low, heads * added.ranks}, rows, b, 0, panels(b),
                       {seen, inner(), OutputMode::kAdd});
    }
  }
  member.Meet();
}

void CpuScorer::Network::Decode(const Member& member, const Decoding& decoding,
                                Scratch& scratch) const {
  const Buffers& buffers = decoding.buffers;
  const int64_t d = config.d_model, rows = decoding.rows.begin.back();
  const auto [first_row, last_row] = member.Share(rows);
  const bool only_roots = rows == static_cast<int64_t>(decoding.inputs.size());
  for (int64_t row = first_row; row < last_row; ++row) {
    const int32_t token = decoding.rows.rows[row].token;
    std::copy_n(embedding.const_data_ptr<float>() + token * d, d, buffers.x.get() + row * d);
  }

  for (const Layer& layer : decoder) {
    const Operand normed = Norm(member, buffers, rows, layer.self_norm);
    member.Meet();
    Multiply(member, normed, rows, layer.self_in, {buffers.wide.get(), 3 * inner()}, buffers,
             only_roots ? 2 * inner() / kernels.panel : 0);
    member.Meet();
    AttendToAncestors(member, decoding.rows, buffers);
    member.Meet();
    const Operand seen = Convert(member, buffers.seen.get(), rows, inner(), buffers);
    Multiply(member, seen, rows, layer.self_out, {buffers.x.get(), d, OutputMode::kAdd}, buffers);
    member.Meet();
    const Operand asking = Norm(member, buffers, rows, layer.cross_norm);
    member.Meet();
    Multiply(member, asking, rows, layer.cross_queries, {buffers.wide.get(), inner()}, buffers);
    member.Meet();
    AttendToText(member, layer, decoding, scratch);
    const Operand read = Convert(member, buffers.seen.get(), rows, inner(), buffers);
    Multiply(member, read, rows, layer.cross_out, {buffers.x.get(), d, OutputMode::kAdd}, buffers);
    member.Meet();
    FeedForward(member, layer, buffers, rows);
  }

  // Of the head only the rows of the children's tokens.
  const float scale =
      config.tie_word_embeddings ? 1 / std::sqrt(static_cast<float>(config.d_model)) : 1;
  size_t text = 0;
  for (int64_t row = first_row; row < last_row; ++row) {
    while (decoding.rows.begin[text + 1] <= row) ++text;
    const auto& children =
        decoding.inputs[text].labels->rows()[row - decoding.rows.begin[text]].child_tokens;
    float* state = buffers.wide.get() + row * d;
    kernels.norm(buffers.x.get() + row * d, 1, d, decoder_norm.data(),
                 static_cast<float>(config.layer_norm_epsilon), {Precision::kFp32, state, d});
    for (size_t child = 0; child < children.size(); ++child) {
      (*decoding.logits)[row][child] =
          scale * kernels.dot(state, head.const_data_ptr<float>() + children[child] * d, d);
    }
  }
}

CpuScorer::CpuScorer(const T5Config& config, const WeightMap& weights, Precision precision,
                     const Kernels& kernels) {
  auto network = std::make_unique<Network>(
      Network{config, precision, kernels, {}, {}, {}, {}, {}, {}, {}, {}});
  const auto weight = [&](const std::string& name) {
    return weights.at(name).detach().contiguous();
  };
  network->embedding = weight("shared.weight");
  network->head = config.tie_word_embeddings ? network->embedding : weight("lm_head.weight");
  const std::string biases = ".block.0.layer.0.SelfAttention.relative_attention_bias.weight";
  network->encoder_biases = network->Biases(weight("encoder" + biases), /*bidirectional=*/true);
  network->decoder_biases = network->Biases(weight("decoder" + biases), /*bidirectional=*/false);
  network->encoder_norm = ToVector(weight("encoder.final_layer_norm.weight"));
  network->decoder_norm = ToVector(weight("decoder.final_layer_norm.weight"));
  for (int64_t i = 0; i < config.num_layers; ++i) {
    network->encoder.push_back(
        network->Prepare(weights, absl::StrCat("encoder.block.", i, ".layer."), false));
  }
  for (int64_t i = 0; i < config.num_decoder_layers; ++i) {
    network->decoder.push_back(
        network->Prepare(weights, absl::StrCat("decoder.block.", i, ".layer."), true));
  }
  network->bytes += network->embedding.nbytes();
  if (!config.tie_word_embeddings) network->bytes += network->head.nbytes();
  network_ = std::move(network);
}

CpuScorer::CpuScorer(std::unique_ptr<const Network> network) : network_(std::move(network)) {}

CpuScorer::~CpuScorer() = default;

std::unique_ptr<const T5Scorer> CpuScorer::With(const Adapter& adapter) const {
  auto network = std::make_unique<Network>(*network_);
  network->bytes = 0;
  for (size_t i = 0; i < network->encoder.size(); ++i) {
    network->Add(adapter, absl::StrCat("encoder.block.", i, ".layer."), network->encoder[i]);
  }
  for (size_t i = 0; i < network->decoder.size(); ++i) {
    network->Add(adapter, absl::StrCat("decoder.block.", i, ".layer."), network->decoder[i]);
  }
  return std::unique_ptr<const T5Scorer>(new CpuScorer(std::move(network)));
}

int64_t CpuScorer::memory_bytes() const { return network_->bytes; }

std::vector<std::vector<float>> CpuScorer::Score(absl::Span<const Input> inputs, Pass& pass) const {
  pass = {};
  if (inputs.empty()) return {};
  const absl::Time begin_encode = absl::Now();
  const Network& network = *network_;
  const T5Config& config = network.config;
  std::vector<const std::vector<int32_t>*> sequences;
  std::vector<int64_t> first = {0};
  int64_t longest = 0;
  for (const Input& input : inputs) {
    const int64_t length = static_cast<int64_t>(input.tokens->size());
    sequences.push_back(input.tokens);
    first.push_back(first.back() + length);
    longest = std::max(longest, length);
  }
  const int64_t threads = at::get_num_threads(), total = first.back();

  // Chunks of one thread each, if that divides the work well; else chunks of all threads.
  int64_t count = (total + kChunkTokens - 1) / kChunkTokens;
  std::vector<Chunk> chunks = Chunks(sequences, first, (count + threads - 1) / threads * threads);
  const auto most = [&] {
    int64_t rows = 0;
    for (const Chunk& chunk : chunks) rows = std::max(rows, chunk.begin.back());
    return rows;
  };
  const int64_t rounds = (static_cast<int64_t>(chunks.size()) + threads - 1) / threads;
  const bool together = threads > 1 && (total < threads * kTokensForOneThread ||
                                        most() * rounds * threads > total + total / 8);
  if (together) chunks = Chunks(sequences, first, count);

  const Aligned<float> encoded = MakeAligned<float>(total * config.d_model);
  std::vector<Scratch> scratch;
  std::vector<Buffers> buffers;
  for (int64_t i = 0; i < threads; ++i) {
    scratch.push_back(network.MakeScratch(longest));
    if (i == 0 || !together) buffers.push_back(network.MakeBuffers(most()));
  }
  std::atomic<size_t> next = 0;
  RunTeam(static_cast<int>(threads), [&](const Member& member) {
    Scratch& mine = scratch[member.index()];
    if (together) {
      for (const Chunk& chunk : chunks) {
        network.Encode(member, chunk, buffers[0], mine, encoded.get());
        member.Meet();
      }
    } else {
      for (size_t i = next++; i < chunks.size(); i = next++) {
        network.Encode(Member::Alone(), chunks[i], buffers[member.index()], mine, encoded.get());
      }
    }
  });
  buffers.clear();
  const absl::Time begin_decode = absl::Now();
  pass.encode = begin_decode - begin_encode;

  std::vector<std::vector<float>> scores;
  while (scores.size() < inputs.size()) {
    const size_t begin = scores.size();
    size_t end = begin;
    for (int64_t rows = 0; end < inputs.size(); ++end) {
      rows += static_cast<int64_t>(inputs[end].labels->rows().size());
      if (rows > kDecoderRows && end > begin) break;
    }
    network.Decode(inputs.subspan(begin, end - begin),
                   absl::MakeConstSpan(first).subspan(begin, end - begin), encoded.get(),
                   static_cast<int>(threads), scratch, scores);
  }
  pass.decode = absl::Now() - begin_decode;
  return scores;
}

// Some of the texts of a call: `first` are their first states. Appends to `scores`.
void CpuScorer::Network::Decode(absl::Span<const Input> inputs, absl::Span<const int64_t> first,
                                const float* encoded, int threads, std::vector<Scratch>& scratch,
                                std::vector<std::vector<float>>& scores) const {
  const DecoderRows rows = RowsOf(inputs, config);
  const int64_t count = rows.begin.back(), looks = count * config.num_heads * config.d_model;
  std::vector<std::vector<float>> logits;
  Decoding decoding = {rows,
                       first,
                       encoded,
                       MakeBuffers(count),
                       std::vector<PackedWeights>(inputs.size()),
                       MakeAligned<float>(looks),
                       MakeAligned<float>(looks),
                       &logits,
                       inputs};
  for (size_t i = 0; i < inputs.size(); ++i) {
    decoding.states[i] = MakePacked(kernels, Precision::kFp32,
                                    static_cast<int64_t>(inputs[i].tokens->size()), config.d_model);
    for (const LabelTrie::Row& row : inputs[i].labels->rows()) {
      logits.emplace_back(row.child_tokens.size());
    }
  }
  RunTeam(threads, [&](const Member& member) {
    const auto [begin, end] = member.Share(static_cast<int64_t>(inputs.size()));
    for (int64_t i = begin; i < end; ++i) {
      kernels.pack(encoded + first[i] * config.d_model, config.d_model, decoding.states[i]);
    }
    member.Meet();
    Decode(member, decoding, scratch[member.index()]);
  });
  for (size_t i = 0; i < inputs.size(); ++i) {
    scores.push_back(LogProbabilities(
        *inputs[i].labels,
        absl::MakeConstSpan(logits).subspan(rows.begin[i], rows.begin[i + 1] - rows.begin[i])));
  }
}

}  // namespace tasuki
