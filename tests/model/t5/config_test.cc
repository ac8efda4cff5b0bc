#include "model/t5/config.h"

#include <nlohmann/json.hpp>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "tests/model/t5/tiny_t5.h"

namespace tasuki {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

json Least() {
  return {{"model_type", "t5"}, {"vocab_size", 100}, {"d_model", 16}, {"d_kv", 4},
          {"d_ff", 32},         {"num_layers", 3},   {"num_heads", 4}};
}

absl::StatusOr<T5Config> Read(const std::string& text) {
  const TemporaryDirectory directory;
  EXPECT_TRUE(WriteFile(directory.At("config.json"), text).ok());
  return T5Config::Read(directory.At("config.json"));
}

TEST(T5Config, TakesTransformersDefaultsForWhatIsNotThere) {
  const T5Config config = Read(Least().dump()).value();
  EXPECT_EQ(config.vocab_size, 100);
  EXPECT_EQ(config.num_decoder_layers, 3);
  EXPECT_EQ(config.relative_attention_num_buckets, 32);
  EXPECT_EQ(config.relative_attention_max_distance, 128);
  EXPECT_EQ(config.dropout_rate, .1);
  EXPECT_EQ(config.layer_norm_epsilon, 1e-6);
  EXPECT_FALSE(config.gated);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(config.pad_token_id, 0);
  EXPECT_EQ(config.eos_token_id, 1);
  EXPECT_EQ(config.decoder_start_token_id, 0);
}

TEST(T5Config, KnowsThatMt5IsGatedAndUntied) {
  json document = Least();
  document["model_type"] = "mt5";
  const T5Config config = Read(document.dump()).value();
  EXPECT_TRUE(config.gated);
  EXPECT_FALSE(config.tie_word_embeddings);
}

TEST(T5Config, ReadsBackWhatItWrote) {
  T5Config config = TinyConfig(/*gated=*/true);
  config.dropout_rate = .25;
  config.layer_norm_epsilon = 1e-5;
  config.relative_attention_num_buckets = 16;
  config.relative_attention_max_distance = 64;
  config.decoder_start_token_id = 7;
  const TemporaryDirectory directory;
  ASSERT_TRUE(config.Write(directory.At("config.json")).ok());
  const T5Config read = T5Config::Read(directory.At("config.json")).value();
  ASSERT_TRUE(read.Write(directory.At("again.json")).ok());
  EXPECT_EQ(ReadFile(directory.At("config.json")).value(),
            ReadFile(directory.At("again.json")).value());
  EXPECT_EQ(read.num_decoder_layers, 3);
  EXPECT_TRUE(read.gated);
  EXPECT_FALSE(read.tie_word_embeddings);
  EXPECT_EQ(read.decoder_start_token_id, 7);
}

TEST(T5Config, RefusesWhatIsNoT5AndSaysWhy) {
  struct Case {
    std::string field;
    json value;
    std::string cause;
  };
  const std::vector<Case> cases = {
      {"model_type", "bert", "model_type is not one of t5, mt5"},
      {"model_type", 5, "model_type is not one of"},
      {"d_model", nullptr, "d_model is missing"},
      {"d_model", 0, "d_model is not a whole number from 1"},
      {"d_ff", -1, "d_ff is not a whole number"},
      {"num_heads", 4.5, "num_heads is not a whole number"},
      {"num_layers", "3", "num_layers is not a whole number"},
      {"vocab_size", 18446744073709551615u, "vocab_size is not a whole number"},
      {"relative_attention_num_buckets", 2, "relative_attention_num_buckets"},
      {"relative_attention_max_distance", 16, "relative_attention_max_distance"},
      {"dropout_rate", 1, "dropout_rate is not a number from 0 to"},
      {"layer_norm_epsilon", 0, "layer_norm_epsilon"},
      {"feed_forward_proj", "gated-silu", "feed_forward_proj is not one of relu, gated-gelu"},
      {"dense_act_fn", "silu", "dense_act_fn is not one of relu"},
      {"is_gated_act", true, "is_gated_act contradicts"},
      {"tie_word_embeddings", "yes", "tie_word_embeddings is not true or false"},
      {"eos_token_id", 100, "eos_token_id is not a whole number from 0 to 99"},
  };
  for (const Case& c : cases) {
    json document = Least();
    document[c.field] = c.value;
    const absl::Status status = Read(document.dump()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << document;
    EXPECT_EQ(ReasonOf(status), v1::MODEL_INVALID) << document;
    EXPECT_THAT(std::string(status.message()), HasSubstr("config.json: ")) << document;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.cause)) << document;
  }
}

TEST(T5Config, NamesAllFaultsAtOnce) {
  const std::string message(Read(R"({"model_type": "t5", "d_model": 0})").status().message());
  EXPECT_THAT(message, HasSubstr("d_model is not"));
  EXPECT_THAT(message, HasSubstr("vocab_size is missing"));
  EXPECT_THAT(message, HasSubstr("num_heads is missing"));
}

TEST(T5Config, RefusesFilesThatAreNoPlainJsonObject) {
  EXPECT_THAT(std::string(Read("{").status().message()), HasSubstr("not JSON"));
  EXPECT_THAT(std::string(Read("[1]").status().message()), HasSubstr("not a JSON object"));
  EXPECT_THAT(std::string(Read(R"({"d_model": 1, "d_model": 2})").status().message()),
              HasSubstr("a key is there twice"));
  EXPECT_THAT(std::string(Read(R"({"a":)" + std::string(100000, '[')).status().message()),
              ::testing::AnyOf(HasSubstr("not JSON"), HasSubstr("nested")));
  EXPECT_THAT(std::string(Read(std::string(2 << 20, ' ')).status().message()),
              HasSubstr("longer than"));
  EXPECT_EQ(ReasonOf(T5Config::Read("/nowhere/config.json").status()), v1::MODEL_INVALID);
}

}  // namespace
}  // namespace tasuki
