// What a GPU computes against what a CPU computes, and graphs against none. Skipped where there is
// no GPU; `bench/gpu` runs them where there is one.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <iostream>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/t5/adapter.h"
#include "model/t5/cpu_scorer.h"
#include "model/t5/device.h"
#include "model/t5/graphs.h"
#include "model/t5/torch_scorer.h"
#include "model/text/label_trie.h"
#include "model/training/loss.h"
#include "model/training/optimizer.h"
#include "model/training/padded_loss.h"
#include "tests/model/t5/tiny_t5.h"

namespace tasuki {
namespace {

constexpr char kGpu[] = "cuda:0";

// Heads as wide as those of the sizes that are used, so that the same kernels run.
T5Config MiniConfig() {
  T5Config config;
  config.vocab_size = 8128;
  config.d_model = 256;
  config.d_kv = 64;
  config.d_ff = 1024;
  config.num_heads = 4;
  config.num_layers = 4;
  config.num_decoder_layers = 2;
  return config;
}

Batch RandomBatch(int seed, int count, int most_input) {
  std::mt19937 random(seed);
  Batch batch;
  for (int i = 0; i < count; ++i) {
    batch.inputs.push_back(RandomTokens(1 + static_cast<int>(random() % most_input), random, 8128));
    batch.targets.push_back(RandomTokens(1 + static_cast<int>(random() % 5), random, 8128));
    batch.weights.push_back(1 + static_cast<float>(random() % 2));
  }
  return batch;
}

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto device = OpenDevice(kGpu);
    if (!device.ok()) GTEST_SKIP() << device.status().message();
  }

  static T5 Model(const std::string& device, Precision precision = Precision::kFp32,
                  bool adapted = false) {
    Adapter adapter;
    if (adapted) {
      v1::Lora lora;
      lora.set_rank(4);
      lora.set_alpha(8);
      for (const char* module : {"q", "v", "wo"}) lora.add_target_modules(module);
      adapter = InitialAdapter(MiniConfig(), lora, 3);
      at::manual_seed(4);
      for (const auto& [name, weight] : adapter.weights) weight.normal_(0, .05);
      adapter.weights = OnDevice(std::move(adapter.weights), device);
    }
    return T5(MiniConfig(), OnDevice(TinyWeights(MiniConfig()), device), std::move(adapter),
              precision);
  }

  // The largest difference of a gradient as a share of that gradient's largest number.
  static double Difference(const T5& a, const T5& b) {
    double difference = 0;
    for (const auto& [name, weight] : a.trained()) {
      const at::Tensor other = b.trained().at(name).grad().cpu();
      difference = std::max(
          difference,
          ((weight.grad().cpu() - other).abs().max() / (other.abs().max() + 1e-9)).item<double>());
    }
    return difference;
  }
};

TEST_F(GpuTest, GivesLossAndGradientsOfTheCpu) {
  for (const bool adapted : {false, true}) {
    const T5 cpu = Model("cpu", Precision::kFp32, adapted);
    const T5 gpu = Model(kGpu, Precision::kFp32, adapted);
    const Batch batch = RandomBatch(1, 24, 300);
    const double expected = Backward(cpu, batch, {});
    const double loss = Backward(gpu, batch, {.tokens_at_once = kTokensAtOnceOnGpu});
    const double gradients = Difference(gpu, cpu);
    std::cout << "loss " << expected << ", differs by " << loss - expected << ", gradients by "
              << gradients << " of their largest\n";
    EXPECT_NEAR(loss, expected, 1e-5 * expected);
    EXPECT_LE(gradients, 1e-4);
  }
}

TEST_F(GpuTest, GivesNearlyTheSameGradientsInBf16) {
  const T5 cpu = Model("cpu"), gpu = Model(kGpu, Precision::kBf16);
  const Batch batch = RandomBatch(2, 24, 300);
  const double expected = Backward(cpu, batch, {}), loss = Backward(gpu, batch, {});
  double differences = 0, all = 0;
  for (const auto& [name, weight] : gpu.trained()) {
    const at::Tensor exact = cpu.trained().at(name).grad();
    EXPECT_EQ(weight.grad().scalar_type(), at::kFloat) << name;
    differences += (weight.grad().cpu() - exact).square().sum().item<double>();
    all += exact.square().sum().item<double>();
  }
  std::cout << "bf16: loss " << loss << " instead of " << expected << ", gradients differ by "
            << std::sqrt(differences / all) << " of their norm\n";
  EXPECT_NEAR(loss, expected, .05 * expected);
  EXPECT_LE(differences, .01 * all);
}

TEST_F(GpuTest, StepsByGraphsAreThoseWithoutAlsoWithDropout) {
  const T5 plain = Model(kGpu), by_graphs = Model(kGpu);
  GraphCache graphs{at::Device(kGpu)};
  const auto step = [](const T5& model, int seed, double dropout, GraphCache* graphs) {
    ClearGradients(model.trained());
    at::manual_seed(seed);
    return Backward(model, RandomBatch(seed % 2, 8, 100),
                    {.dropout = {.network = dropout}, .label_smoothing = .1, .graphs = graphs});
  };
  for (int i = 0; i < 10; ++i) {
    const double expected = step(plain, i, .1, nullptr);
    EXPECT_NEAR(step(by_graphs, i, .1, &graphs), expected, 1e-5 * expected) << i;
    EXPECT_LE(Difference(by_graphs, plain), 1e-4) << i;
  }
  EXPECT_GE(graphs.captured(), 1);
}

TEST_F(GpuTest, TenStepsOfAdamWMoveWeightsAsOnTheCpu) {
  const T5 cpu = Model("cpu"), gpu = Model(kGpu);
  GraphCache graphs{at::Device(kGpu)};
  v1::Recipe recipe;
  recipe.set_optimizer(v1::Recipe::ADAMW);
  recipe.set_weight_decay(.01);
  const auto on_cpu = Optimizer::Create(recipe, cpu.trained());
  const auto on_gpu = Optimizer::Create(recipe, gpu.trained());
  WeightMap before;
  for (const auto& [name, weight] : cpu.trained()) before[name] = weight.detach().clone();
  for (int64_t i = 1; i <= 10; ++i) {
    const Batch batch = RandomBatch(7, 8, 100);
    const Optimizer::Update update{.step = i, .learning_rate = 1e-5, .gradient_scale = .5};
    ClearGradients(cpu.trained());
    ClearGradients(gpu.trained());
    const double expected = Backward(cpu, batch, {});
    EXPECT_NEAR(Backward(gpu, batch, {.graphs = &graphs}), expected, 1e-4 * expected) << i;
    on_cpu->Step(update);
    on_gpu->Step(update);
  }
  double moved = 0, off = 0;
  for (const auto& [name, weight] : gpu.trained()) {
    const at::Tensor expected = cpu.trained().at(name).detach();
    moved += (expected - before[name]).square().sum().item<double>();
    off += (weight.detach().cpu() - expected).square().sum().item<double>();
  }
  std::cout << "weights differ by " << std::sqrt(off / moved) << " of what they moved\n";
  // A sign of a gradient that is next to nothing is rounding, and the first steps are signs.
  EXPECT_LE(std::sqrt(off / moved), .05);
}

TEST_F(GpuTest, ScoresLabelsAsTheCpuDoesAloneAndInBatches) {
  const T5Config config = MiniConfig();
  const auto weights = [&](const std::string& device) {
    return OnDevice(TinyWeights(config), device);
  };
  const CpuScorer cpu(config, weights("cpu"), Precision::kFp32, BestKernels());
  const LabelTrie one = TrieOf({"a", "b", "c"}), other = TrieOf({"xyab", "xyac", "xyacd", "xyb"});
  std::mt19937 random(5);
  std::vector<std::vector<int32_t>> texts;
  std::vector<T5Scorer::Input> inputs;
  for (int i = 0; i < 40; ++i) {
    texts.push_back(RandomTokens(1 + static_cast<int>(random() % (i % 8 == 0 ? 400 : 60)), random,
                                 config.vocab_size));
  }
  for (int i = 0; i < 40; ++i) inputs.push_back({&texts[i], i % 3 == 0 ? &other : &one});
  const std::vector<std::vector<float>> expected = cpu.Score(inputs);
  const auto difference = [&](const T5Scorer& scorer, bool alone) {
    double largest = 0;
    for (int round = 0; round < (alone ? 1 : 4); ++round) {  // the last ones by graphs
      std::vector<std::vector<float>> scores;
      if (!alone) scores = scorer.Score(inputs);
      for (size_t i = 0; i < inputs.size(); ++i) {
        if (alone) scores.push_back(scorer.Score({inputs[i]})[0]);
        for (size_t label = 0; label < scores[i].size(); ++label) {
          largest = std::max<double>(largest, std::abs(scores[i][label] - expected[i][label]));
        }
      }
    }
    return largest;
  };
  for (const auto& [precision, tolerance] :
       {std::pair(Precision::kFp32, 1e-4), std::pair(Precision::kBf16, .25)}) {
    const auto gpu = T5Scorer::Make(config, weights(kGpu), precision);
    const double together = difference(*gpu, false), alone = difference(*gpu, true);
    std::cout << PrecisionName(precision) << ": log p differs from the CPU's by " << together
              << " in batches, by " << alone << " alone\n";
    EXPECT_LE(together, tolerance);
    EXPECT_LE(alone, tolerance);
  }
}

}  // namespace
}  // namespace tasuki
