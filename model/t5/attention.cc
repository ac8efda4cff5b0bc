#include "model/t5/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_scaled_dot_product_attention_math.h>
#include <ATen/ops/_scaled_dot_product_efficient_attention.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>

namespace tasuki {
namespace {

using at::Tensor;

constexpr float kUnseen = -std::numeric_limits<float>::infinity();
// Up to here padding is cheaper than another group's calls.
constexpr int64_t kShort = 32;
constexpr int64_t kAligned = 16;  // numbers

int64_t RoundUp(int64_t size, int64_t multiple) {
  return (size + multiple - 1) / multiple * multiple;
}

// All are [sequences, heads, rows, d_kv], by whatever strides; so is the result, whose heads lie
// side by side.
Tensor Attend(const Tensor& queries, const Tensor& keys, const Tensor& values, const Tensor& bias,
              double dropout) {
  const Tensor expanded =
      bias.expand({queries.size(0), queries.size(1), queries.size(2), keys.size(2)});
  // T5 does not scale. What cuDNN and flash attention offer has no gradient for the bias.
  if (queries.is_cuda()) {
    return std::get<0>(at::_scaled_dot_product_efficient_attention(
        queries, keys, values, expanded, /*compute_log_sumexp=*/at::GradMode::is_enabled(), dropout,
        /*is_causal=*/false, /*scale=*/1.0));
  }
  return std::get<0>(at::_scaled_dot_product_attention_math(
      queries, keys, values, expanded, dropout, /*is_causal=*/false, /*dropout_mask=*/{},
      /*scale=*/1.0));
}

// [sequences * rows, parts * heads * d_kv] as its parts, each [sequences, heads, rows, d_kv].
std::vector<Tensor> HeadsOf(const Tensor& rows, int64_t sequences, int64_t parts, int64_t heads) {
  const int64_t d_kv = rows.size(1) / (parts * heads);
  std::vector<Tensor> result = rows.view({sequences, -1, parts, heads, d_kv}).unbind(2);
  for (Tensor& part : result) part = part.transpose(1, 2);
  return result;
}

Tensor RowsOf(const Tensor& heads) {
  return heads.transpose(1, 2).reshape({-1, heads.size(1) * heads.size(3)});
}

}  // namespace

int64_t RelativePositionBucket(int64_t distance, bool bidirectional, const T5Config& config) {
  int64_t buckets = config.relative_attention_num_buckets;
  int64_t first = 0;
  if (bidirectional) {
    buckets /= 2;
    if (distance > 0) first = buckets;
    distance = std::abs(distance);
  } else {
    distance = std::max<int64_t>(-distance, 0);
  }
  const int64_t exact = buckets / 2;
  if (distance < exact) return first + distance;
  // In fp32, as the models were trained.
  const float range = static_cast<float>(
      std::log(static_cast<double>(config.relative_attention_max_distance) / exact));
  const float far = std::log(static_cast<float>(distance) / exact) / range * (buckets - exact);
  return first + std::min(exact + static_cast<int64_t>(far), buckets - 1);
}

std::vector<int64_t> PositionBuckets(int64_t length, bool bidirectional, const T5Config& config) {
  std::vector<int64_t> buckets(2 * length - 1);
  for (int64_t i = 0; i < 2 * length - 1; ++i) {
    buckets[i] = RelativePositionBucket(i - (length - 1), bidirectional, config);
  }
  return buckets;
}

Tensor DistanceBias(const Tensor& table, const Tensor& buckets, bool bidirectional) {
  const Tensor bias = at::embedding(table, buckets).t().contiguous();
  if (bidirectional) return bias;
  const int64_t count = buckets.size(0), length = (count + 1) / 2;
  Tensor unseen = at::zeros({count}, bias.options().requires_grad(false));
  unseen.narrow(0, length, length - 1).fill_(kUnseen);
  return bias + unseen;
}

Tensor DistanceBias(const Tensor& table, int64_t length, bool bidirectional,
                    const T5Config& config) {
  const std::vector<int64_t> buckets = PositionBuckets(length, bidirectional, config);
  return DistanceBias(table, at::tensor(buckets, at::kLong).to(table.device()), bidirectional);
}

std::vector<Group> GroupByLength(const std::vector<int64_t>& lengths) {
  Group order(lengths.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return lengths[a] > lengths[b]; });
  std::vector<Group> groups;
  int64_t longest = 0;
  for (int64_t sequence : order) {
    if (groups.empty() || (longest > kShort && 2 * lengths[sequence] < longest)) {
      groups.emplace_back();
      longest = lengths[sequence];
    }
    groups.back().push_back(sequence);
  }
  return groups;
}

int64_t RoundUpSize(int64_t size, int64_t least) {
  const int64_t quarter = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(size))) / 4;
  return RoundUp(size, std::max(least, quarter));
}

Tensor KeyBias(const Tensor& lengths, int64_t length, at::ScalarType type) {
  const int64_t width = RoundUp(length, kAligned);
  const Tensor behind =
      at::arange(width, lengths.options()).unsqueeze(0) >= lengths.unsqueeze(1);  // [., width]
  return at::zeros(behind.sizes(), lengths.options().dtype(type))
      .masked_fill_(behind, kUnseen)
      .view({-1, 1, 1, width})
      .narrow(3, 0, length);
}

Tensor PositionBias(const Tensor& distance_bias, const Tensor& lengths, at::ScalarType type) {
  const int64_t length = (distance_bias.size(1) + 1) / 2;
  const int64_t width = RoundUp(length, kAligned);
  // The window that begins at length - 1 - query holds the biases of that query for keys 0, 1, ….
  const Tensor positions = distance_bias.unfold(1, length, 1).flip(1).unsqueeze(0);
  Tensor bias = at::constant_pad_nd(positions, {0, width - length});
  if (lengths.defined()) bias = bias + KeyBias(lengths, width, at::kFloat);
  return bias.to(type).narrow(3, 0, length);
}

Tensor AttendToSelfPadded(const Tensor& rows, int64_t sequences, int64_t heads, const Tensor& bias,
                          double dropout) {
  const std::vector<Tensor> parts = HeadsOf(rows, sequences, 3, heads);
  return RowsOf(Attend(parts[0], parts[1], parts[2], bias, dropout));
}

Tensor AttendToOthersPadded(const Tensor& queries, const Tensor& keys_values, int64_t sequences,
                            int64_t heads, const Tensor& bias, double dropout) {
  const Tensor query = HeadsOf(queries, sequences, 1, heads)[0];
  const std::vector<Tensor> parts = HeadsOf(keys_values, sequences, 2, heads);
  return RowsOf(Attend(query, parts[0], parts[1], bias, dropout));
}

}  // namespace tasuki
