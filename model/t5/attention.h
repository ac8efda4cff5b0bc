// Attention over token-packed sequences: the one place where something is padded. Private to
// model/: includes torch.
//
// What a batch's layers share (who lies where, who sees whom) is made once for the batch; each
// layer then is a gather, three products of [sequences, heads] matrices, and a gather back.
// Sequences of like length are padded together, so that one long text among short ones costs
// little.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/t5/config.h"

namespace tasuki {

// Bucket of a key's position minus the query's, 0 <= bucket < relative_attention_num_buckets: exact
// for near positions, logarithmic for far ones. One-directional (decoder): all later keys are in 0.
int64_t RelativePositionBucket(int64_t distance, bool bidirectional, const T5Config& config);

// [heads, length, length], contiguous: the bias of each query for each key, looked up in `table`
// [buckets, heads]. One-directional: -infinity for later keys. Differentiable.
at::Tensor PositionBias(const at::Tensor& table, int64_t length, bool bidirectional,
                        const T5Config& config);

// [heads, 2 * length - 1]: the same by the distance from query to key, plus length - 1.
at::Tensor DistanceBias(const at::Tensor& table, int64_t length, bool bidirectional,
                        const T5Config& config);

// Indices of sequences that are padded to the length of the longest of them.
using Group = std::vector<int64_t>;
std::vector<Group> GroupByLength(const std::vector<int64_t>& lengths);

// Where packed rows [tokens, parts * heads * d_kv] lie in [sequences * heads, longest, d_kv], one
// such tensor for each group and part. Parts are what one product made: queries, keys, values.
class HeadPadding {
 public:
  // REQUIRES: `groups` has each sequence once; no length is 0.
  HeadPadding(const std::vector<Group>& groups, const std::vector<int64_t>& lengths, int64_t heads,
              int64_t parts, at::Device device);
  // Group after group, each its parts. Padding is 0.
  std::vector<at::Tensor> Pad(const at::Tensor& rows) const;
  // The inverse. REQUIRES: one part.
  at::Tensor Unpad(const std::vector<at::Tensor>& padded) const;
  // Of a group.
  int64_t longest(size_t group) const { return longest_[group]; }

 private:
  int64_t heads_;
  int64_t parts_;
  std::vector<int64_t> batches_;  // of each group: sequences * heads
  std::vector<int64_t> longest_;
  at::Tensor row_of_slot_;  // -1: padding
  at::Tensor slot_of_row_;
};

// Sequences that look at themselves. Immutable once `biases` are set.
struct SelfAttention {
  SelfAttention(const std::vector<int64_t>& lengths, int64_t heads, at::Device device);
  // From [tokens, 3 * heads * d_kv] (queries, keys, values) to [tokens, heads * d_kv].
  at::Tensor operator()(const at::Tensor& rows, double dropout) const;

  std::vector<Group> groups;
  HeadPadding inputs;
  HeadPadding outputs;
  // Of each group, to be set: [sequences * heads, longest, longest], -infinity where nobody looks.
  // Every row of the padding, too, must see something.
  std::vector<at::Tensor> biases;
};

// Sequences that look at others, each at the whole of one. Immutable.
struct CrossAttention {
  CrossAttention(const std::vector<int64_t>& query_lengths, const std::vector<int64_t>& key_lengths,
                 int64_t heads, at::Device device);
  // From [queries, heads * d_kv] and [tokens, 2 * heads * d_kv] (keys, values) to
  // [queries, heads * d_kv].
  at::Tensor operator()(const at::Tensor& queries, const at::Tensor& keys_values,
                        double dropout) const;

  std::vector<Group> groups;
  HeadPadding queries;
  HeadPadding keys_values;
  std::vector<at::Tensor> biases;
};

// Self-attention in which every token of a sequence sees every other (bidirectional) or itself and
// those before it; the bias is of relative positions.
SelfAttention PositionalSelfAttention(const std::vector<int64_t>& lengths, const at::Tensor& table,
                                      bool bidirectional, const T5Config& config);

}  // namespace tasuki
