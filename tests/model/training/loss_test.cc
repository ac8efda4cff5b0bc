#include "model/training/loss.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/training/optimizer.h"

namespace tasuki {
namespace {

T5Config Config() {
  T5Config config;
  config.vocab_size = 40;
  config.d_model = 16;
  config.d_kv = 8;
  config.d_ff = 32;
  config.num_layers = config.num_decoder_layers = 1;
  config.num_heads = 2;
  return config;
}

// Sum over the tokens of one example's cross-entropy.
double LossOf(const T5& model, const std::vector<int32_t>& input,
              const std::vector<int32_t>& target) {
  at::NoGradGuard no_grad;
  const at::Tensor log_p = TargetLogits(model, {input}, {target}, {}).log_softmax(-1);
  double loss = 0;
  for (size_t t = 0; t < target.size(); ++t) {
    loss -= log_p[static_cast<int64_t>(t)][target[t]].item<double>();
  }
  return loss;
}

TEST(Backward, GivesNearlyTheSameGradientsInBf16) {
  if (!CanDo(BestKernels(), Precision::kBf16)) GTEST_SKIP() << "not on this machine";
  const Batch batch{.inputs = {{5, 6, 7, 1}, {8, 1}, {9, 10, 11, 12, 13, 1}},
                    .targets = {{20, 1}, {21, 22, 23, 1}, {24, 1}},
                    .weights = {1, 1, 1}};
  const T5 exact(Config(), InitialWeights(Config(), 1));
  const T5 rounded(Config(), InitialWeights(Config(), 1), {}, Precision::kBf16);
  EXPECT_NEAR(Backward(rounded, batch, {}), Backward(exact, batch, {}), 0.02);
  double differences = 0, all = 0;
  for (const auto& [name, weight] : exact.weights()) {
    const at::Tensor& gradient = rounded.weights().at(name).grad();
    EXPECT_EQ(gradient.scalar_type(), at::kFloat) << name;
    differences += (gradient - weight.grad()).square().sum().item<double>();
    all += weight.grad().square().sum().item<double>();
  }
  EXPECT_LE(differences, 4e-4 * all);  // 2 % of their size
  EXPECT_GT(differences, 1e-8 * all) << "not rounded at all";
}

TEST(Backward, WeighsEachExampleByItsOwnTaskAndDividesByAllTargetTokens) {
  const T5 model(Config(), InitialWeights(Config(), 1));
  const Batch batch{.inputs = {{5, 6, 7, 1}, {8, 1}, {9, 10, 11, 12, 13, 1}},
                    .targets = {{20, 1}, {21, 22, 23, 1}, {24, 1}},
                    .weights = {0.7f, 0.3f, 2.0f}};
  double expected = 0;
  for (int i = 0; i < 3; ++i) {
    expected += batch.weights[i] * LossOf(model, batch.inputs[i], batch.targets[i]);
  }
  EXPECT_NEAR(Backward(model, batch, {}), expected / 8, 1e-5);
}

// (1 − ε) · −log p(target) + ε · mean of −log p, which is torch's cross_entropy: ε .1, logits 2 1 0
// −1.
TEST(TokenLosses, SmoothsAsTorchDoes) {
  const at::Tensor logits = at::tensor({2.0f, 1.0f, 0.0f, -1.0f}).repeat({2, 1});
  const at::Tensor losses = TokenLosses(logits, {{0, 3}}, 0.1);
  EXPECT_NEAR(losses[0].item<double>(), 0.5901897, 1e-6);
  EXPECT_NEAR(losses[1].item<double>(), 3.2901897, 1e-6);
}

TEST(PadTargets, FillsUpToTheLongest) {
  std::vector<std::vector<int32_t>> targets = {{5, 1}, {6, 7, 8, 1}, {9, 1}};
  PadTargets(absl::MakeSpan(targets).subspan(0, 2), 0);
  EXPECT_THAT(targets, ::testing::ElementsAre(::testing::ElementsAre(5, 1, 0, 0),
                                              ::testing::ElementsAre(6, 7, 8, 1),
                                              ::testing::ElementsAre(9, 1)));
}

TEST(Backward, GivesTheGradientOfTheWholeBatchHoweverItIsCut) {
  // 40 examples of 100 tokens are several parts; the same weights see them one by one.
  Batch batch;
  for (int i = 0; i < 40; ++i) {
    std::vector<int32_t> input(99, 2 + i % 30);
    input.push_back(1);
    batch.inputs.push_back(input);
    batch.targets.push_back({3 + i % 20, 1});
    batch.weights.push_back(i % 2 == 0 ? 1.0f : 0.5f);
  }
  ASSERT_GT(batch.input_tokens(), kTokensAtOnce);
  const T5 whole(Config(), InitialWeights(Config(), 1));
  const T5 single(Config(), InitialWeights(Config(), 1));
  double sum = 0;
  for (int64_t i = 0; i < batch.size(); ++i) {
    sum += Backward(single, {{batch.inputs[i]}, {batch.targets[i]}, {batch.weights[i]}}, {});
  }
  for (const int64_t tokens_at_once : {kTokensAtOnce, kTokensAtOnce / 4, int64_t{1}}) {
    ClearGradients(whole.weights());
    EXPECT_NEAR(Backward(whole, batch, {.tokens_at_once = tokens_at_once}), sum / 40, 1e-5);
    for (const auto& [name, weight] : whole.weights()) {
      const at::Tensor other = single.weights().at(name).grad() / 40;
      EXPECT_LT((weight.grad() - other).abs().max().item<double>(),
                1e-5 * (1 + other.abs().max().item<double>()))
          << name;
    }
  }
}

}  // namespace
}  // namespace tasuki
