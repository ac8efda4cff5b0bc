// What a GPU computes, on a CPU, against what a CPU computes.
#include "model/training/padded_loss.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/t5/adapter.h"
#include "model/training/optimizer.h"
#include "tests/testing/fake_graphs.h"

namespace tasuki {
namespace {

T5Config Config() {
  T5Config config;
  config.vocab_size = 40;
  config.d_model = 16;
  config.d_kv = 8;
  config.d_ff = 32;
  config.num_layers = config.num_decoder_layers = 2;
  config.num_heads = 2;
  return config;
}

T5 Model(Adapter adapter = {}) {
  return T5(Config(), InitialWeights(Config(), 1), std::move(adapter));
}

// Of uneven lengths and weights.
Batch RandomBatch(std::mt19937& random, int count, int most_input, int most_target = 5) {
  const auto sequence = [&](int most) {
    std::vector<int32_t> tokens;
    for (int length = 1 + static_cast<int>(random() % most); length > 1; --length) {
      tokens.push_back(2 + static_cast<int32_t>(random() % 38));
    }
    tokens.push_back(1);
    return tokens;
  };
  Batch batch;
  for (int i = 0; i < count; ++i) {
    batch.inputs.push_back(sequence(most_input));
    batch.targets.push_back(sequence(most_target));
    batch.weights.push_back(.5f + static_cast<float>(random() % 4));
  }
  return batch;
}

// The largest difference of a gradient from that of the other model, as a share of its largest.
double Difference(const T5& a, const T5& b) {
  double difference = 0;
  for (const auto& [name, weight] : a.trained()) {
    const at::Tensor& other = b.trained().at(name).grad();
    difference = std::max(difference, (weight.grad() - other).abs().max().item<double>() /
                                          (1e-6 + other.abs().max().item<double>()));
  }
  return difference;
}

TEST(PaddedBackward, GivesTheLossAndGradientOfTheSameExamplesUnpadded) {
  std::mt19937 random(1);
  const T5 packed = Model(), padded = Model();
  for (const double smoothing : {0., .1}) {
    for (const int64_t tokens_at_once : {kTokensAtOnceOnGpu, int64_t{64}}) {
      const Batch batch = RandomBatch(random, 11, 60);
      ClearGradients(packed.trained());
      ClearGradients(padded.trained());
      const double expected = Backward(packed, batch, {.label_smoothing = smoothing});
      EXPECT_NEAR(PaddedBackward(padded, batch,
                                 {.label_smoothing = smoothing, .tokens_at_once = tokens_at_once}),
                  expected, 1e-5);
      EXPECT_LE(Difference(padded, packed), 2e-5);
    }
  }
}

TEST(PaddedBackward, TrainsAnAdapterAndNothingElse) {
  std::mt19937 random(2);
  v1::Lora lora;
  lora.set_rank(2);
  lora.set_alpha(4);
  for (const char* module : {"q", "k", "v", "o", "wi", "wo"}) lora.add_target_modules(module);
  const auto adapter = [&] {
    Adapter adapter = InitialAdapter(Config(), lora, 3);
    at::manual_seed(4);
    for (const auto& [name, weight] : adapter.weights) weight.normal_(0, .2);
    return adapter;
  };
  const T5 packed = Model(adapter()), padded = Model(adapter());
  const Batch batch = RandomBatch(random, 6, 30);
  EXPECT_NEAR(PaddedBackward(padded, batch, {}), Backward(packed, batch, {}), 1e-5);
  EXPECT_LE(Difference(padded, packed), 2e-5);
  for (const auto& [name, weight] : padded.weights()) EXPECT_FALSE(weight.grad().defined()) << name;
}

TEST(PaddedBackward, GivesTheSameByGraphsStepAfterStep) {
  std::mt19937 random(3);
  int replays = 0;
  GraphCache graphs(at::kCPU, std::make_unique<FakeGraphMaker>(&replays));
  const T5 plain = Model(), by_graphs = Model();
  for (int step = 0; step < 12; ++step) {
    const Batch batch = RandomBatch(random, 8, 40, 4);
    ClearGradients(plain.trained());
    ClearGradients(by_graphs.trained());
    at::manual_seed(step);
    const double expected = PaddedBackward(plain, batch, {});
    EXPECT_EQ(PaddedBackward(by_graphs, batch, {.graphs = &graphs}), expected) << step;
    EXPECT_EQ(Difference(by_graphs, plain), 0) << step;
  }
  EXPECT_GT(replays, 2);
}

TEST(PaddedTargetLogits, AreThoseOfTheSameExamplesUnpadded) {
  std::mt19937 random(4);
  const T5 model = Model();
  const at::NoGradGuard no_grad;
  const Batch batch = RandomBatch(random, 9, 70);
  const at::Tensor expected = TargetLogits(model, batch.inputs, batch.targets, {});
  const at::Tensor logits = PaddedTargetLogits(model, batch.inputs, batch.targets, {});
  ASSERT_EQ(logits.sizes(), expected.sizes());
  EXPECT_TRUE(at::allclose(logits, expected, 1e-4, 1e-5));
}

TEST(PaddedParts, HoldEachExampleOnceWithinTheBudget) {
  std::mt19937 random(5);
  const Batch batch = RandomBatch(random, 700, 300);
  for (const int64_t most : {int64_t{1}, int64_t{2048}, kTokensAtOnceOnGpu}) {
    int64_t examples = 0, tokens = 0, padded = 0;
    for (const Batch& part : PaddedParts(batch, most)) {
      const int64_t rectangle = part.size() * static_cast<int64_t>(part.inputs[0].size());
      EXPECT_TRUE(part.size() == 1 || rectangle <= most) << rectangle;
      examples += part.size();
      tokens += part.input_tokens();
      padded += rectangle;
    }
    EXPECT_EQ(examples, 700);
    EXPECT_EQ(tokens, batch.input_tokens());
    EXPECT_LE(padded, 1.3 * tokens) << "like lengths together";
  }
}

}  // namespace
}  // namespace tasuki
