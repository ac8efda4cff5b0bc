#include "model/t5/adapter.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/files/durable.h"
#include "model/files/safetensors.h"
#include "tests/model/t5/tiny_t5.h"

namespace tasuki {
namespace {

using ::testing::ElementsAre;

at::Tensor Logits(const T5& t5, const Dropout& dropout = {}) {
  std::mt19937 random(3);
  const std::vector<int32_t> target = RandomTokens(5, random);
  const PackedTokens input =
      PackedTokens::Of({RandomTokens(9, random), RandomTokens(40, random)}, at::kCPU);
  const PackedTokens decoder_input = PackedTokens::Of(
      {ShiftRight(target, t5.config()), ShiftRight(target, t5.config())}, at::kCPU);
  return t5.Logits(t5.Decode(decoder_input, t5.Encode(input, dropout), input, dropout));
}

double Largest(const at::Tensor& tensor) { return tensor.abs().max().item<double>(); }

TEST(AdapterWeights, StandBesideEachTarget) {
  std::vector<std::string> names;
  for (const WeightShape& weight : AdapterWeights(TinyConfig(), LoraOf({"wo", "o"}))) {
    const bool encoder = weight.name.rfind("encoder.block.1", 0) == 0;
    if (encoder) names.push_back(weight.name);
  }
  const std::string layer = "encoder.block.1.layer.";
  EXPECT_THAT(names, ElementsAre(layer + "0.SelfAttention.o.lora_A.weight",
                                 layer + "0.SelfAttention.o.lora_B.weight",
                                 layer + "1.DenseReluDense.wo.lora_A.weight",
                                 layer + "1.DenseReluDense.wo.lora_B.weight"));
  // Of q and v in 2 encoder layers, and in 3 decoder layers twice.
  EXPECT_EQ(AdapterWeights(TinyConfig(), LoraOf({"q", "v"})).size(), 2 * 2 * (2 + 2 * 3));
}

TEST(InitialAdapter, ChangesNothingYetAndFollowsFromItsSeed) {
  const T5Config config = TinyConfig();
  const v1::Lora lora = LoraOf({"q", "wo"});
  const Adapter adapter = InitialAdapter(config, lora, 1), same = InitialAdapter(config, lora, 1),
                other = InitialAdapter(config, lora, 2);
  EXPECT_EQ(adapter.scale, 3);
  for (const auto& [name, weight] : adapter.weights) {
    EXPECT_TRUE(at::equal(weight, same.weights.at(name))) << name;
    if (name.ends_with("lora_B.weight")) {
      EXPECT_EQ(Largest(weight), 0) << name;
      continue;
    }
    EXPECT_FALSE(at::equal(weight, other.weights.at(name))) << name;
    const double bound = 1 / std::sqrt(static_cast<double>(weight.size(1)));
    EXPECT_LE(Largest(weight), bound) << name;
    EXPECT_GT(Largest(weight), bound / 2) << name;
  }
  const WeightMap weights = TinyWeights(config);
  EXPECT_TRUE(at::equal(Logits(T5(config, weights, adapter)), Logits(T5(config, weights))));
}

TEST(Adapter, AddsWhatMergingAdds) {
  for (const bool gated : {false, true}) {
    at::NoGradGuard no_grad;
    const T5Config config = TinyConfig(gated);
    const WeightMap weights = TinyWeights(config);
    const at::Tensor before = Logits(T5(config, weights));
    for (const std::string& module : AllModules(gated)) {
      const T5 adapted(config, weights, LearntAdapter(config, LoraOf({module})));
      const at::Tensor logits = Logits(adapted);
      EXPECT_LE(Largest(logits - Logits(T5(config, adapted.Merged()))), 2e-5) << module;
      EXPECT_GT(Largest(logits - before), 1e-2) << module;
    }
  }
}

TEST(Adapter, IsTrainedInThePlaceOfTheWeights) {
  const T5Config config = TinyConfig();
  const T5 t5(config, TinyWeights(config), LearntAdapter(config, LoraOf(AllModules(false))));
  Logits(t5).square().sum().backward();
  for (const auto& [name, weight] : t5.weights()) {
    EXPECT_FALSE(weight.requires_grad()) << name;
    EXPECT_FALSE(weight.grad().defined()) << name;
  }
  EXPECT_EQ(t5.trained().size(), t5.adapter().weights.size());
  for (const auto& [name, weight] : t5.trained()) {
    ASSERT_TRUE(weight.grad().defined()) << name;
    EXPECT_GT(Largest(weight.grad()), 0) << name;
  }
}

TEST(Adapter, HasADropoutOfItsOwn) {
  at::NoGradGuard no_grad;
  const T5Config config = TinyConfig();
  const WeightMap weights = TinyWeights(config);
  const T5 plain(config, weights);
  const T5 adapted(config, weights, LearntAdapter(config, LoraOf({"q", "v"})));
  const Dropout dropout{.network = 0, .adapter = .5};
  EXPECT_TRUE(at::equal(Logits(plain, dropout), Logits(plain)));
  at::manual_seed(1);
  const at::Tensor once = Logits(adapted, dropout);
  EXPECT_GT(Largest(once - Logits(adapted)), 1e-3);
  EXPECT_GT(Largest(once - Logits(adapted, dropout)), 1e-3);
  at::manual_seed(1);
  EXPECT_TRUE(at::equal(once, Logits(adapted, dropout)));
}

TEST(WriteAdapter, WritesWhatPeftReads) {
  const TemporaryDirectory directory;
  const Adapter adapter = LearntAdapter(TinyConfig(), LoraOf({"q", "v"}));
  const std::string place = directory.path() + "/adapter";
  ASSERT_TRUE(WriteAdapter(place, adapter, LoraOf({"q", "v"}), "base@3").ok());
  const auto config = nlohmann::json::parse(*ReadFile(place + "/adapter_config.json"));
  EXPECT_EQ(config["peft_type"], "LORA");
  EXPECT_EQ(config["task_type"], "SEQ_2_SEQ_LM");
  EXPECT_EQ(config["base_model_name_or_path"], "base@3");
  EXPECT_EQ(config["r"], 2);
  EXPECT_EQ(config["lora_alpha"], 6);
  EXPECT_EQ(config["target_modules"], nlohmann::json({"q", "v"}));
  const auto file = SafetensorsFile::Open(place + "/adapter_model.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->metadata().at("format"), "pt");
  EXPECT_EQ((*file)->tensors().size(), adapter.weights.size());
  const std::string name = "decoder.block.2.layer.1.EncDecAttention.v.lora_B.weight";
  const TensorEntry& entry = (*file)->tensors().at("base_model.model." + name);
  EXPECT_EQ(entry.dtype, "F32");
  EXPECT_EQ(entry.shape, adapter.weights.at(name).sizes().vec());
}

}  // namespace
}  // namespace tasuki
