#include "model/t5/packed_attention.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <functional>
#include <numeric>

#include "model/t5/attention.h"
#include "tests/model/t5/tiny_t5.h"

namespace tasuki {
namespace {

using at::Tensor;

const std::vector<int64_t> kLengths = {1, 7, 50, 3, 18};
const std::vector<int64_t> kTargets = {2, 1, 3, 70, 2};

int64_t Sum(const std::vector<int64_t>& lengths) {
  return std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
}

Tensor Random(at::IntArrayRef sizes) { return at::randn(sizes).requires_grad_(); }

double Difference(const Tensor& a, const Tensor& b) { return (a - b).abs().max().item<double>(); }

// Gradients of a weighted sum of the result, so that none is like another.
std::vector<Tensor> Gradients(const Tensor& result, const std::vector<Tensor>& of) {
  at::manual_seed(5);
  (result * at::randn(result.sizes())).sum().backward();
  std::vector<Tensor> gradients;
  for (const Tensor& tensor : of) {
    gradients.push_back(tensor.grad().clone());
    tensor.mutable_grad() = Tensor();
  }
  return gradients;
}

// Rows of sequences that are filled up with rows of random numbers, which nobody may see.
class Padding {
 public:
  Padding(const std::vector<int64_t>& lengths, int64_t length) {
    int64_t row = 0;
    for (const int64_t filled : lengths) {
      for (int64_t i = 0; i < length; ++i) {
        if (i < filled) place_.push_back(static_cast<int64_t>(from_.size()));
        from_.push_back(i < filled ? row++ : -1);
      }
    }
    for (int64_t& from : from_) from = from < 0 ? row : from;
  }
  Tensor Fill(const Tensor& rows) const {
    return at::cat({rows, at::randn({1, rows.size(1)})}).index_select(0, at::tensor(from_));
  }
  Tensor Strip(const Tensor& rows) const { return rows.index_select(0, at::tensor(place_)); }

 private:
  std::vector<int64_t> from_, place_;
};

class PackedAttentionTest : public testing::Test {
 protected:
  void SetUp() override { at::manual_seed(1); }
  const T5Config config_ = TinyConfig(false);
  const int64_t heads_ = config_.num_heads, inner_ = heads_ * config_.d_kv;
};

// Padded attention by LibTorch's operators is the other implementation of the same.
TEST_F(PackedAttentionTest, ToSelfIsWhatThePaddedOneIs) {
  for (const bool bidirectional : {true, false}) {
    const Tensor rows = Random({Sum(kLengths), 3 * inner_});
    const Tensor table = Random({config_.relative_attention_num_buckets, heads_});
    const Tensor packed =
        AttendToSelf(rows, kLengths, DistanceBias(table, 50, bidirectional, config_), 0);
    const auto gradients = Gradients(packed, {rows, table});
    const Padding padding(kLengths, 56);
    const Tensor bias = PositionBias(DistanceBias(table, 56, bidirectional, config_),
                                     bidirectional ? at::tensor(kLengths) : Tensor(), at::kFloat);
    const Tensor padded = padding.Strip(AttendToSelfPadded(padding.Fill(rows), 5, heads_, bias, 0));
    const auto expected = Gradients(padded, {rows, table});
    EXPECT_LE(Difference(packed, padded), 1e-5);
    EXPECT_LE(Difference(gradients[0], expected[0]), 2e-5);
    EXPECT_LE(Difference(gradients[1], expected[1]), 1e-4);
  }
}

TEST_F(PackedAttentionTest, ToOthersIsWhatThePaddedOneIsAlsoWithoutKeysAndValues) {
  const Tensor queries = Random({Sum(kTargets), inner_});
  const Tensor states = Random({Sum(kLengths), config_.d_model});
  const Tensor keys = Random({inner_, config_.d_model}), values = Random({inner_, config_.d_model});
  const auto keys_values = [&] {
    return at::cat({states.matmul(keys.t()), states.matmul(values.t())}, 1);
  };
  const std::vector<Tensor> all = {queries, states, keys, values};

  const Padding targets(kTargets, 72), inputs(kLengths, 56);
  const Tensor padded =
      targets.Strip(AttendToOthersPadded(targets.Fill(queries), inputs.Fill(keys_values()), 5,
                                         heads_, KeyBias(at::tensor(kLengths), 56, at::kFloat), 0));
  const auto expected = Gradients(padded, all);
  const Tensor packed = AttendToOthers(queries, keys_values(), kTargets, kLengths, heads_, 0);
  const auto gradients = Gradients(packed, all);
  const Tensor absorbed =
      AttendToStates(queries, states, keys, values, kTargets, kLengths, heads_, 0);
  const auto of_absorbed = Gradients(absorbed, all);
  EXPECT_LE(Difference(packed, padded), 2e-5);
  EXPECT_LE(Difference(absorbed, padded), 5e-5);
  for (size_t i = 0; i < all.size(); ++i) {
    const double largest = expected[i].abs().max().item<double>();
    EXPECT_LE(Difference(gradients[i], expected[i]), 1e-5 * largest) << i;
    EXPECT_LE(Difference(of_absorbed[i], expected[i]), 1e-5 * largest) << i;
  }
}

// The derivative along a direction is what a small step in it makes, with the same numbers dropped.
TEST_F(PackedAttentionTest, DropsTheSameInTheGradient) {
  const Tensor queries = Random({Sum(kTargets), inner_}).detach();
  const Tensor states = Random({Sum(kLengths), config_.d_model}).detach();
  const Tensor keys = Random({inner_, config_.d_model}).detach();
  const Tensor values = Random({inner_, config_.d_model}).detach();
  const Tensor rows = Random({Sum(kLengths), 3 * inner_}).detach();
  const Tensor biases = at::randn({heads_, 2 * 50 - 1});
  const Tensor both = at::randn({Sum(kLengths), 2 * inner_});
  const auto check = [](const Tensor& at_point, const std::function<Tensor(const Tensor&)>& run) {
    const auto value = [&](const Tensor& x) {
      at::manual_seed(9);
      return run(x).mul(0.1).sum();
    };
    const Tensor x = at_point.clone().requires_grad_();
    value(x).backward();
    at::manual_seed(2);
    const Tensor direction = at::randn(x.sizes());
    constexpr double kStep = 1e-3;
    at::NoGradGuard no_grad;
    const double slope =
        (value(at_point + kStep * direction) - value(at_point - kStep * direction)).item<double>() /
        (2 * kStep);
    const double expected = (x.grad() * direction).sum().item<double>();
    EXPECT_NEAR(slope, expected, 2e-2 * std::max(1.0, std::abs(expected)));
  };
  check(rows, [&](const Tensor& x) { return AttendToSelf(x, kLengths, biases, .3); });
  check(both, [&](const Tensor& x) {
    return AttendToOthers(queries, x, kTargets, kLengths, heads_, .3);
  });
  check(states * .3, [&](const Tensor& x) {
    return AttendToStates(queries * .3, x, keys * .3, values * .3, kTargets, kLengths, heads_, .3);
  });
}

TEST_F(PackedAttentionTest, AnswersTheSameBytesWithAnyNumberOfThreads) {
  const Tensor rows = Random({Sum(kLengths), 3 * inner_});
  const Tensor table = Random({config_.relative_attention_num_buckets, heads_});
  const int threads = at::get_num_threads();
  std::vector<std::vector<Tensor>> results;
  for (const int count : {1, 2, 3}) {
    at::set_num_threads(count);
    const Tensor answer = AttendToSelf(rows, kLengths, DistanceBias(table, 50, true, config_), 0);
    results.push_back(Gradients(answer, {rows, table}));
    results.back().push_back(answer.detach());
  }
  at::set_num_threads(threads);
  for (size_t i = 0; i < results[0].size(); ++i) {
    EXPECT_TRUE(at::equal(results[0][i], results[1][i])) << i;
    EXPECT_TRUE(at::equal(results[0][i], results[2][i])) << i;
  }
}

TEST(StatesAreCheaper, ForFewTargetRowsOnly) {
  EXPECT_TRUE(StatesAreCheaper({2, 3}, {30, 40}, 12, 64, 768));
  EXPECT_FALSE(StatesAreCheaper({100}, {30}, 12, 64, 768));
}

}  // namespace
}  // namespace tasuki
