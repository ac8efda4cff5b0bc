#include "model/t5/weights.h"

#include <ATen/ATen.h>

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "model/files/safetensors.h"
#include "tests/model/t5/tiny_t5.h"

namespace tasuki {
namespace {

using at::Tensor;
using ::testing::HasSubstr;
using ::testing::Not;

// Writes tensors of any type as a safetensors file.
void WriteTensors(const std::string& path, const WeightMap& tensors, const std::string& dtype) {
  std::map<std::string, TensorEntry> entries;
  for (const auto& [name, tensor] : tensors) {
    entries[name] = {dtype, tensor.sizes().vec(),
                     static_cast<const uint8_t*>(tensor.const_data_ptr()), tensor.nbytes()};
  }
  ASSERT_TRUE(WriteSafetensors(path, entries, {}).ok());
}

void ExpectEqual(const WeightMap& a, const WeightMap& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, weight] : a) EXPECT_TRUE(at::equal(weight, b.at(name))) << name;
}

TEST(Weights, AreNamedAsTransformersNamesThem) {
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const WeightShape& weight : ExpectedWeights(TinyConfig()))
    shapes[weight.name] = weight.shape;
  EXPECT_EQ(shapes.size(), 1 + (2 * 8 + 2) + (3 * 13 + 2));
  using Shape = std::vector<int64_t>;
  EXPECT_EQ(shapes["shared.weight"], (Shape{60, 16}));
  EXPECT_EQ(shapes["encoder.block.1.layer.0.SelfAttention.q.weight"], (Shape{12, 16}));
  EXPECT_EQ(shapes["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"],
            (Shape{32, 3}));
  EXPECT_EQ(shapes["decoder.block.2.layer.1.EncDecAttention.o.weight"], (Shape{16, 12}));
  EXPECT_EQ(shapes["decoder.block.2.layer.2.DenseReluDense.wi.weight"], (Shape{24, 16}));
  EXPECT_EQ(shapes["decoder.final_layer_norm.weight"], (Shape{16}));
  EXPECT_EQ(shapes.count("lm_head.weight"), 0);

  shapes.clear();
  for (const WeightShape& weight : ExpectedWeights(TinyConfig(/*gated=*/true))) {
    shapes[weight.name] = weight.shape;
  }
  EXPECT_EQ(shapes["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"], (Shape{24, 16}));
  EXPECT_EQ(shapes["encoder.block.0.layer.1.DenseReluDense.wi_1.weight"], (Shape{24, 16}));
  EXPECT_EQ(shapes["lm_head.weight"], (Shape{60, 16}));
}

TEST(Weights, BeginWithTheSpreadThatTheirPlaceNeeds) {
  T5Config config = TinyConfig();
  config.vocab_size = 3000;
  config.d_model = 256;
  config.d_kv = 16;
  config.d_ff = 1024;
  config.initializer_factor = .5;
  const WeightMap weights = InitialWeights(config, 7);
  const auto spread = [&](const std::string& name) {
    return weights.at(name).std().item<double>() / .5;
  };
  const std::string layer = "decoder.block.1.layer.";
  EXPECT_NEAR(spread("shared.weight"), 1, .01);
  EXPECT_NEAR(spread(layer + "0.SelfAttention.q.weight"), 1 / std::sqrt(256. * 16), .001);
  EXPECT_NEAR(spread(layer + "0.SelfAttention.k.weight"), 1 / std::sqrt(256.), .003);
  EXPECT_NEAR(spread(layer + "1.EncDecAttention.o.weight"), 1 / std::sqrt(48.), .006);
  EXPECT_NEAR(spread(layer + "2.DenseReluDense.wi.weight"), 1 / std::sqrt(256.), .003);
  EXPECT_NEAR(spread(layer + "2.DenseReluDense.wo.weight"), 1 / std::sqrt(1024.), .003);
  EXPECT_TRUE(at::equal(weights.at(layer + "0.layer_norm.weight"), at::full({256}, .5)));
}

TEST(Weights, AreTheSameForTheSameSeedAlone) {
  ExpectEqual(InitialWeights(TinyConfig(), 3), InitialWeights(TinyConfig(), 3));
  EXPECT_FALSE(at::equal(InitialWeights(TinyConfig(), 3)["shared.weight"],
                         InitialWeights(TinyConfig(), 4)["shared.weight"]));
}

TEST(Weights, ComeBackAsTheyWereWritten) {
  for (const bool gated : {false, true}) {
    const TemporaryDirectory directory;
    const WeightMap weights = TinyWeights(TinyConfig(gated));
    ASSERT_TRUE(WriteWeights(directory.path(), weights).ok());
    ExpectEqual(ReadWeights(directory.path(), TinyConfig(gated)).value(), weights);
    const auto file = SafetensorsFile::Open(directory.At("model.safetensors")).value();
    EXPECT_EQ(file->metadata().at("format"), "pt");
  }
}

TEST(Weights, OfHalfPrecisionBecomeFp32) {
  const WeightMap weights = TinyWeights(TinyConfig());
  for (const auto& [dtype, name] :
       std::map<at::ScalarType, std::string>{{at::kHalf, "F16"}, {at::kBFloat16, "BF16"}}) {
    WeightMap halves, rounded;
    for (const auto& [weight, tensor] : weights) {
      halves[weight] = tensor.to(dtype);
      rounded[weight] = halves[weight].to(at::kFloat);
    }
    const TemporaryDirectory directory;
    WriteTensors(directory.At("model.safetensors"), halves, name);
    ExpectEqual(ReadWeights(directory.path(), TinyConfig()).value(), rounded);
  }
}

TEST(Weights, MayLieInShards) {
  const TemporaryDirectory directory;
  const WeightMap weights = TinyWeights(TinyConfig());
  WeightMap parts[2];
  std::string map;
  for (const auto& [name, weight] : weights) {
    const bool second = name > "encoder";
    parts[second][name] = weight;
    map += (map.empty() ? "\"" : ", \"") + name + "\": \"model-0000" + (second ? "2" : "1") +
           "-of-00002.safetensors\"";
  }
  WriteTensors(directory.At("model-00001-of-00002.safetensors"), parts[0], "F32");
  WriteTensors(directory.At("model-00002-of-00002.safetensors"), parts[1], "F32");
  const std::string index = directory.At("model.safetensors.index.json");
  ASSERT_TRUE(WriteFile(index, "{\"weight_map\": {" + map + "}}").ok());
  ExpectEqual(ReadWeights(directory.path(), TinyConfig()).value(), weights);

  ASSERT_TRUE(WriteFile(index, R"({"weight_map": {"shared.weight": "../x.safetensors"}})").ok());
  EXPECT_THAT(std::string(ReadWeights(directory.path(), TinyConfig()).status().message()),
              HasSubstr("is not a shard's name"));
  ASSERT_TRUE(WriteFile(index, "{\"weight_map\": {" + map +
                                   ", \"x\": \"model-00003-of-00003.safetensors\"}}")
                  .ok());
  EXPECT_THAT(std::string(ReadWeights(directory.path(), TinyConfig()).status().message()),
              HasSubstr("model-00003-of-00003.safetensors: the file is missing"));
}

TEST(Weights, MayHaveTheCopiesThatTransformersWrites) {
  const TemporaryDirectory directory;
  const WeightMap weights = TinyWeights(TinyConfig());
  WeightMap all = weights;
  for (const char* copy :
       {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"}) {
    all[copy] = weights.at("shared.weight");
  }
  all["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] =
      at::zeros({32, 3});
  ASSERT_TRUE(WriteWeights(directory.path(), all).ok());
  ExpectEqual(ReadWeights(directory.path(), TinyConfig()).value(), weights);
}

TEST(Weights, ThatDoNotFitAreNamedWithTheCause) {
  const TemporaryDirectory directory;
  WeightMap weights = TinyWeights(TinyConfig());
  weights["encoder.final_layer_norm.weight"] = at::zeros({17});
  weights["shared.weight"] = weights["shared.weight"].clone();
  weights["shared.weight"][5][3] = NAN;
  weights["decoder.strange.weight"] = at::zeros({2});
  weights.erase("decoder.final_layer_norm.weight");
  ASSERT_TRUE(WriteWeights(directory.path(), weights).ok());
  const absl::Status status = ReadWeights(directory.path(), TinyConfig()).status();
  const std::string message(status.message());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(status), v1::MODEL_INVALID);
  EXPECT_THAT(message, HasSubstr("model.safetensors: "));
  EXPECT_THAT(message, HasSubstr("encoder.final_layer_norm.weight has shape [17], not [16]"));
  EXPECT_THAT(message, HasSubstr("shared.weight has a value that is not finite"));
  EXPECT_THAT(message, HasSubstr("\"decoder.strange.weight\" is not a weight of this T5"));
  EXPECT_THAT(message, HasSubstr("decoder.final_layer_norm.weight is missing"));
}

TEST(Weights, OfOtherTypesOrNotThereAreRefused) {
  const TemporaryDirectory directory;
  EXPECT_THAT(std::string(ReadWeights(directory.path(), TinyConfig()).status().message()),
              HasSubstr("model.safetensors: the file is missing"));
  WriteTensors(directory.At("model.safetensors"),
               {{"shared.weight", at::zeros({60, 16}, at::kInt)}}, "I32");
  const std::string message(ReadWeights(directory.path(), TinyConfig()).status().message());
  EXPECT_THAT(message, HasSubstr("shared.weight is of type I32"));
  EXPECT_THAT(message, HasSubstr("; and 50 more"));
}

}  // namespace
}  // namespace tasuki
