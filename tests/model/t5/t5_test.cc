#include "model/t5/t5.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cmath>

#include "gtest/gtest.h"
#include "model/t5/attention.h"
#include "tests/model/t5/tiny_t5.h"

namespace tasuki {
namespace {

using at::Tensor;
using Sequences = std::vector<std::vector<int32_t>>;

struct Batch {
  Sequences inputs, targets;
};

// Lengths that are padded in several groups.
Batch RandomBatch() {
  std::mt19937 random(5);
  Batch batch;
  for (const int length : {3, 70, 1, 33, 20, 160}) {
    batch.inputs.push_back(RandomTokens(length, random));
    batch.targets.push_back(RandomTokens(1 + static_cast<int>(random() % 50), random));
  }
  return batch;
}

Tensor Logits(const T5& t5, const Sequences& inputs, const Sequences& targets, double dropout = 0) {
  Sequences shifted;
  for (const std::vector<int32_t>& target : targets) {
    shifted.push_back(ShiftRight(target, t5.config()));
  }
  const PackedTokens input = PackedTokens::Of(inputs, at::kCPU);
  const Tensor encoded = t5.Encode(input, {dropout});
  return t5.Logits(t5.Decode(PackedTokens::Of(shifted, at::kCPU), encoded, input, {dropout}));
}

Tensor Loss(const T5& t5, const Sequences& inputs, const Sequences& targets, double dropout = 0) {
  return at::cross_entropy_loss(Logits(t5, inputs, targets, dropout),
                                PackedTokens::Of(targets, at::kCPU).ids, {}, at::Reduction::Sum);
}

// The same of padded sequences: what a GPU computes, here on a CPU.
Tensor PaddedLogits(const T5& t5, const Sequences& inputs, const Sequences& targets) {
  const int64_t count = static_cast<int64_t>(inputs.size()), length = 192, target_length = 56;
  const auto filled = [&](const Sequences& sequences, int64_t length) {
    Tensor ids = at::randint(t5.config().vocab_size, {count, length}, at::kLong);
    for (int64_t i = 0; i < count; ++i) {
      const Tensor real = PackedTokens::Of({sequences[i]}, at::kCPU).ids;
      ids[i].narrow(0, 0, real.size(0)).copy_(real);
    }
    return ids.view({-1});
  };
  Sequences shifted;
  std::vector<int64_t> lengths, rows;
  for (int64_t i = 0; i < count; ++i) {
    shifted.push_back(ShiftRight(targets[i], t5.config()));
    lengths.push_back(static_cast<int64_t>(inputs[i].size()));
    for (size_t t = 0; t < targets[i].size(); ++t) {
      rows.push_back(i * target_length + static_cast<int64_t>(t));
    }
  }
  const auto buckets = [&](int64_t length, bool bidirectional) {
    return at::tensor(PositionBuckets(length, bidirectional, t5.config()));
  };
  const PaddedTokens input = {filled(inputs, length), at::tensor(lengths), buckets(length, true)};
  const PaddedTokens decoder_input = {
      filled(shifted, target_length), {}, buckets(target_length, false)};
  const Tensor logits = t5.Logits(t5.Decode(decoder_input, t5.Encode(input, {}), input, {}));
  return logits.index_select(0, at::tensor(rows));
}

WeightMap Gradients(const T5& t5) {
  WeightMap gradients;
  for (const auto& [name, weight] : t5.weights()) {
    gradients[name] = weight.grad().clone();
    weight.mutable_grad().reset();
  }
  return gradients;
}

class T5Test : public ::testing::TestWithParam<bool> {
 protected:
  T5Test() : t5_(TinyConfig(GetParam()), TinyWeights(TinyConfig(GetParam()))) {}
  T5 t5_;
};

INSTANTIATE_TEST_SUITE_P(T5, T5Test, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "GatedUntied" : "ReluTied"; });

TEST_P(T5Test, AnswersABatchAsItAnswersOneByOne) {
  const Batch batch = RandomBatch();
  const Tensor together = Logits(t5_, batch.inputs, batch.targets);
  int64_t row = 0;
  for (size_t i = 0; i < batch.inputs.size(); ++i) {
    const Tensor alone = Logits(t5_, {batch.inputs[i]}, {batch.targets[i]});
    EXPECT_TRUE(at::allclose(together.slice(0, row, row + alone.size(0)), alone, 1e-4, 1e-4)) << i;
    row += alone.size(0);
  }
  EXPECT_EQ(row, together.size(0));
}

TEST_P(T5Test, AnswersPaddedSequencesAsPackedOnesWithTheSameGradients) {
  const Batch batch = RandomBatch();
  const auto loss_of = [&](const Tensor& logits) {
    return at::cross_entropy_loss(logits, PackedTokens::Of(batch.targets, at::kCPU).ids, {},
                                  at::Reduction::Sum);
  };
  const Tensor packed = Logits(t5_, batch.inputs, batch.targets);
  loss_of(packed).backward();
  const WeightMap expected = Gradients(t5_);
  const Tensor padded = PaddedLogits(t5_, batch.inputs, batch.targets);
  loss_of(padded).backward();
  EXPECT_TRUE(at::allclose(padded, packed, 1e-4, 1e-4));
  for (const auto& [name, gradient] : Gradients(t5_)) {
    const double difference = (gradient - expected.at(name)).abs().max().item<double>();
    EXPECT_LT(difference, 2e-5 * gradient.abs().max().item<double>()) << name;
  }
}

TEST_P(T5Test, GradientOfABatchIsTheSumOfThoseOneByOne) {
  const Batch batch = RandomBatch();
  Loss(t5_, batch.inputs, batch.targets).backward();
  const WeightMap together = Gradients(t5_);
  for (size_t i = 0; i < batch.inputs.size(); ++i) {
    Loss(t5_, {batch.inputs[i]}, {batch.targets[i]}).backward();
  }
  for (const auto& [name, gradient] : Gradients(t5_)) {
    const double difference = (gradient - together.at(name)).abs().max().item<double>();
    EXPECT_LT(difference, 1e-5 * gradient.abs().max().item<double>()) << name;
  }
}

// Along the gradient itself a function grows by the gradient's norm.
TEST_P(T5Test, GradientsAgreeWithFiniteDifferences) {
  const Batch batch = RandomBatch();
  const Tensor loss = Loss(t5_, batch.inputs, batch.targets);
  loss.backward();
  const WeightMap gradients = Gradients(t5_);
  const c10::NoGradGuard no_grad;
  for (const auto& [name, gradient] : gradients) {
    const double norm = gradient.norm().item<double>();
    ASSERT_GT(norm, 0) << name;
    Tensor weight = t5_.weights().at(name);
    const Tensor original = weight.clone();
    const double step = .1 / norm;  // the loss, some hundreds, changes by .1 either way
    // Named, since clang 14 captures no structured binding by itself.
    const auto loss_at = [&, &gradient = gradient](double distance) {
      weight.copy_(original + gradient * (distance / norm));
      return Loss(t5_, batch.inputs, batch.targets).item<double>();
    };
    const double slope = (loss_at(step) - loss_at(-step)) / (2 * step);
    weight.copy_(original);
    EXPECT_NEAR(slope / norm, 1, .02) << name;
  }
}

TEST_P(T5Test, DoesNotLookAtLaterTargets) {
  std::mt19937 random(6);
  const std::vector<int32_t> input = RandomTokens(9, random);
  std::vector<int32_t> target = RandomTokens(40, random);
  const Tensor before = Logits(t5_, {input}, {target});
  target[20] = target[20] == 5 ? 6 : 5;
  const Tensor after = Logits(t5_, {input}, {target});
  // Token 20 is the input of position 21.
  EXPECT_TRUE(at::equal(before.slice(0, 0, 21), after.slice(0, 0, 21)));
  EXPECT_FALSE(at::allclose(before.slice(0, 21), after.slice(0, 21)));
}

TEST_P(T5Test, LooksAtTheWholeInputFromEveryPosition) {
  std::mt19937 random(7);
  std::vector<int32_t> input = RandomTokens(40, random);
  const Tensor before = t5_.Encode(PackedTokens::Of({input}, at::kCPU), {});
  input[38] = input[38] == 5 ? 6 : 5;
  const Tensor after = t5_.Encode(PackedTokens::Of({input}, at::kCPU), {});
  EXPECT_GT((before - after).abs().amax(1).min().item<float>(), 0);
}

TEST_P(T5Test, RepeatsItsDropoutAndGradientsToTheBit) {
  const Batch batch = RandomBatch();
  const auto run = [&](int64_t seed) {
    at::manual_seed(seed);
    Loss(t5_, batch.inputs, batch.targets, .1).backward();
    return Gradients(t5_);
  };
  const WeightMap first = run(1), again = run(1), other = run(2);
  for (const auto& [name, gradient] : first) {
    EXPECT_TRUE(at::equal(gradient, again.at(name))) << name;
    EXPECT_FALSE(at::equal(gradient, other.at(name))) << name;
  }
}

TEST_P(T5Test, KeepsTheExpectedLossNearUnderDropout) {
  const Batch batch = RandomBatch();
  const c10::NoGradGuard no_grad;
  const double exact = Loss(t5_, batch.inputs, batch.targets).item<double>();
  double sum = 0;
  for (int i = 0; i < 20; ++i) {
    sum += Loss(t5_, batch.inputs, batch.targets, .02).item<double>();
  }
  EXPECT_NEAR(sum / 20 / exact, 1, .05);
}

TEST(ShiftRight, BeginsWithTheStartAndDropsTheEnd) {
  T5Config config;
  config.decoder_start_token_id = 9;
  EXPECT_EQ(ShiftRight({5, 6, 1}, config), (std::vector<int32_t>{9, 5, 6}));
  EXPECT_EQ(ShiftRight({1}, config), (std::vector<int32_t>{9}));
}

TEST(PackedTokens, PutsSequencesOneAfterTheOther) {
  const PackedTokens packed = PackedTokens::Of({{4, 1}, {1}, {7, 8, 1}}, at::kCPU);
  EXPECT_EQ(packed.lengths, (std::vector<int64_t>{2, 1, 3}));
  EXPECT_TRUE(at::equal(packed.ids, at::tensor(std::vector<int64_t>{4, 1, 1, 7, 8, 1})));
}

}  // namespace
}  // namespace tasuki
