// Relative positions, and attention over sequences that are padded to one length: that of a GPU, by
// LibTorch's operators. Private to model/: includes torch.
//
// A padded sequence is a rectangle of rows, so nothing is gathered: queries, keys and values are
// views of the product that made them, and shapes follow from few numbers. Nothing here reads a
// tensor on the host or copies to the device, so that it can be part of a CUDA graph (graphs.h).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/t5/config.h"

namespace tasuki {

// Bucket of a key's position minus the query's, 0 <= bucket < relative_attention_num_buckets: exact
// for near positions, logarithmic for far ones. One-directional (decoder): all later keys are in 0.
int64_t RelativePositionBucket(int64_t distance, bool bidirectional, const T5Config& config);

// Those of the distances 1 - length to length - 1.
std::vector<int64_t> PositionBuckets(int64_t length, bool bidirectional, const T5Config& config);

// [heads, 2 * length - 1]: the bias of each distance from query to key, plus length - 1, looked up
// in `table` [buckets, heads] by what PositionBuckets answers. One-directional: -infinity for later
// keys. Differentiable.
at::Tensor DistanceBias(const at::Tensor& table, const at::Tensor& buckets, bool bidirectional);
at::Tensor DistanceBias(const at::Tensor& table, int64_t length, bool bidirectional,
                        const T5Config& config);

// Indices of sequences that are padded to the length of the longest of them.
using Group = std::vector<int64_t>;
std::vector<Group> GroupByLength(const std::vector<int64_t>& lengths);

// The next of few sizes: a multiple of `least`, and of a quarter of the power of two below it; a
// quarter more than `size` at most, but for `least`.
int64_t RoundUpSize(int64_t size, int64_t least = 1);

// ---- Padded attention --------------------------------------------------------------------------

// Biases are [sequences, heads, queries, keys] or expand to it, of the type of the queries, and lie
// as the operator wants them: rows begin at multiples of 16.

// 0 for keys before the sequence's end, -infinity behind it: [sequences, 1, 1, length], for
// `lengths` [sequences].
at::Tensor KeyBias(const at::Tensor& lengths, int64_t length, at::ScalarType type);

// Of relative positions, from DistanceBias: [1, heads, length, length]. With `lengths`, keys behind
// a sequence's end are unseen as well: [sequences, heads, length, length]. Differentiable.
at::Tensor PositionBias(const at::Tensor& distance_bias, const at::Tensor& lengths,
                        at::ScalarType type);

// From rows [sequences * length, 3 * heads * d_kv] (queries, keys, values) to
// [sequences * length, heads * d_kv]: each attends to those of its own sequence.
at::Tensor AttendToSelfPadded(const at::Tensor& rows, int64_t sequences, int64_t heads,
                              const at::Tensor& bias, double dropout);

// The same from queries [sequences * queries, heads * d_kv] to keys and values
// [sequences * keys, 2 * heads * d_kv] of another rectangle.
at::Tensor AttendToOthersPadded(const at::Tensor& queries, const at::Tensor& keys_values,
                                int64_t sequences, int64_t heads, const at::Tensor& bias,
                                double dropout);

}  // namespace tasuki
