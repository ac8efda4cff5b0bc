#include "model/t5/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "model/t5/functions.h"

namespace tasuki {
namespace {

using at::Tensor;

constexpr float kUnseen = -std::numeric_limits<float>::infinity();
// Up to here padding is cheaper than another group's calls.
constexpr int64_t kShort = 32;

int64_t Longest(const Group& group, const std::vector<int64_t>& lengths) {
  int64_t longest = 0;
  for (int64_t sequence : group) longest = std::max(longest, lengths[sequence]);
  return longest;
}

// 0 for the keys of each sequence of the group, kUnseen for padding: [sequences, 1, 1, longest].
Tensor KeyMask(const Group& group, const std::vector<int64_t>& lengths, at::Device device) {
  const int64_t longest = Longest(group, lengths), count = static_cast<int64_t>(group.size());
  Tensor mask = at::zeros({count, 1, 1, longest}, at::kFloat);
  float* out = mask.mutable_data_ptr<float>();
  for (int64_t sequence : group) {
    std::fill(out + lengths[sequence], out + longest, kUnseen);
    out += longest;
  }
  return mask.to(device);
}

// Of distance + length - 1.
std::vector<int64_t> Buckets(int64_t length, bool bidirectional, const T5Config& config) {
  std::vector<int64_t> buckets(2 * length - 1);
  for (int64_t i = 0; i < 2 * length - 1; ++i) {
    buckets[i] = RelativePositionBucket(i - (length - 1), bidirectional, config);
  }
  return buckets;
}

Tensor Attend(const Tensor& queries, const Tensor& keys, const Tensor& values, const Tensor& bias,
              double dropout) {
  Tensor weights = at::softmax(at::baddbmm(bias, queries, keys.transpose(1, 2)), -1);
  if (dropout > 0) weights = at::dropout(weights, dropout, /*train=*/true);
  return at::bmm(weights, values);
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

Tensor DistanceBias(const Tensor& table, int64_t length, bool bidirectional,
                    const T5Config& config) {
  const std::vector<int64_t> bucket_of = Buckets(length, bidirectional, config);
  const Tensor buckets = at::tensor(bucket_of, at::kLong).to(table.device());
  const Tensor bias = at::embedding(table, buckets).t().contiguous();
  if (bidirectional) return bias;
  Tensor unseen = at::zeros({2 * length - 1}, bias.options().requires_grad(false));
  unseen.narrow(0, length, length - 1).fill_(kUnseen);
  return bias + unseen;
}

Tensor PositionBias(const Tensor& table, int64_t length, bool bidirectional,
                    const T5Config& config) {
  const std::vector<int64_t> bucket_of = Buckets(length, bidirectional, config);
  Tensor buckets = at::empty({length, length}, at::kLong);
  for (int64_t query = 0; query < length; ++query) {
    std::copy_n(bucket_of.begin() + (length - 1 - query), length,
                buckets.mutable_data_ptr<int64_t>() + query * length);
  }
  Tensor bias = at::embedding(table, buckets.to(table.device())).permute({2, 0, 1}).contiguous();
  if (bidirectional) return bias;
  return bias + at::full({length, length}, kUnseen, bias.options()).triu_(1);
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

HeadPadding::HeadPadding(const std::vector<Group>& groups, const std::vector<int64_t>& lengths,
                         int64_t heads, int64_t parts, at::Device device)
    : heads_(heads), parts_(parts) {
  std::vector<int64_t> first(lengths.size() + 1, 0);  // row of each sequence
  std::partial_sum(lengths.begin(), lengths.end(), first.begin() + 1);
  int64_t slots = 0;
  for (const Group& group : groups) {
    batches_.push_back(static_cast<int64_t>(group.size()) * heads);
    longest_.push_back(Longest(group, lengths));
    slots += parts * batches_.back() * longest_.back();
  }

  row_of_slot_ = at::full({slots}, -1, at::kLong);
  slot_of_row_ = at::empty({first.back() * parts * heads}, at::kLong);
  int64_t* row_of = row_of_slot_.mutable_data_ptr<int64_t>();
  int64_t* slot_of = slot_of_row_.mutable_data_ptr<int64_t>();
  int64_t begin = 0;  // slot of the sequence's head
  for (size_t g = 0; g < groups.size(); ++g) {
    for (int64_t part = 0; part < parts; ++part) {
      for (int64_t sequence : groups[g]) {
        for (int64_t head = 0; head < heads; ++head, begin += longest_[g]) {
          for (int64_t i = 0; i < lengths[sequence]; ++i) {
            const int64_t row = ((first[sequence] + i) * parts + part) * heads + head;
            row_of[begin + i] = row;
            slot_of[row] = begin + i;
          }
        }
      }
    }
  }
  row_of_slot_ = row_of_slot_.to(device);
  slot_of_row_ = slot_of_row_.to(device);
}

std::vector<Tensor> HeadPadding::Pad(const Tensor& rows) const {
  const int64_t d_kv = rows.size(1) / (parts_ * heads_);
  const Tensor slots = GatherRows(rows.reshape({-1, d_kv}), row_of_slot_, slot_of_row_);
  std::vector<int64_t> sizes;
  for (size_t g = 0; g < batches_.size(); ++g) {
    sizes.insert(sizes.end(), parts_, batches_[g] * longest_[g]);
  }
  std::vector<Tensor> padded = slots.split_with_sizes(sizes);
  for (size_t i = 0; i < padded.size(); ++i) {
    padded[i] = padded[i].view({batches_[i / parts_], longest_[i / parts_], d_kv});
  }
  return padded;
}

Tensor HeadPadding::Unpad(const std::vector<Tensor>& padded) const {
  const int64_t d_kv = padded[0].size(2);
  std::vector<Tensor> slots;
  for (const Tensor& group : padded) slots.push_back(group.reshape({-1, d_kv}));
  return GatherRows(slots.size() == 1 ? slots[0] : at::cat(slots), slot_of_row_, row_of_slot_)
      .view({-1, heads_ * d_kv});
}

SelfAttention::SelfAttention(const std::vector<int64_t>& lengths, int64_t heads, at::Device device)
    : groups(GroupByLength(lengths)),
      inputs(groups, lengths, heads, 3, device),
      outputs(groups, lengths, heads, 1, device) {}

Tensor SelfAttention::operator()(const Tensor& rows, double dropout) const {
  const std::vector<Tensor> padded = inputs.Pad(rows);
  std::vector<Tensor> results;
  for (size_t g = 0; g < groups.size(); ++g) {
    results.push_back(
        Attend(padded[3 * g], padded[3 * g + 1], padded[3 * g + 2], biases[g], dropout));
  }
  return outputs.Unpad(results);
}

CrossAttention::CrossAttention(const std::vector<int64_t>& query_lengths,
                               const std::vector<int64_t>& key_lengths, int64_t heads,
                               at::Device device)
    : groups(GroupByLength(key_lengths)),
      queries(groups, query_lengths, heads, 1, device),
      keys_values(groups, key_lengths, heads, 2, device) {
  for (size_t g = 0; g < groups.size(); ++g) {
    const int64_t count = static_cast<int64_t>(groups[g].size());
    biases.push_back(KeyMask(groups[g], key_lengths, device)
                         .expand({count, heads, queries.longest(g), keys_values.longest(g)})
                         .reshape({count * heads, queries.longest(g), keys_values.longest(g)}));
  }
}

Tensor CrossAttention::operator()(const Tensor& query_rows, const Tensor& key_value_rows,
                                  double dropout) const {
  const std::vector<Tensor> query = queries.Pad(query_rows);
  const std::vector<Tensor> key_value = keys_values.Pad(key_value_rows);
  std::vector<Tensor> results;
  for (size_t g = 0; g < groups.size(); ++g) {
    results.push_back(Attend(query[g], key_value[2 * g], key_value[2 * g + 1], biases[g], dropout));
  }
  return queries.Unpad(results);
}

SelfAttention PositionalSelfAttention(const std::vector<int64_t>& lengths, const Tensor& table,
                                      bool bidirectional, const T5Config& config) {
  SelfAttention attention(lengths, config.num_heads, table.device());
  for (size_t g = 0; g < attention.groups.size(); ++g) {
    const Group& group = attention.groups[g];
    const int64_t longest = attention.inputs.longest(g);
    const Tensor bias = PositionBias(table, longest, bidirectional, config).unsqueeze(0) +
                        KeyMask(group, lengths, table.device());
    attention.biases.push_back(bias.view({-1, longest, longest}));
  }
  return attention;
}

}  // namespace tasuki
