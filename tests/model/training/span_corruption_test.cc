#include "model/training/span_corruption.h"

#include <map>
#include <numeric>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/training/tiny_base.h"

namespace tasuki {
namespace {

class CorruptSpansTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new Folder();
    tokenizer_ = MakeTokenizer(*folder_ / "tokenizer").release();
  }
  static void TearDownTestSuite() {
    delete tokenizer_;
    delete folder_;
  }

  static std::vector<int32_t> Numbered(int64_t count) {
    std::vector<int32_t> tokens(count);
    std::iota(tokens.begin(), tokens.end(), 1000);
    return tokens;
  }

  // Puts the spans of the target back where their sentinels stand in the input.
  static std::vector<int32_t> Restore(const CorruptedText& text) {
    std::map<int32_t, std::vector<int32_t>> spans;
    std::map<int32_t, bool> is_sentinel;
    for (int i = 0; i < kSentinelCount; ++i) is_sentinel[tokenizer_->sentinel_id(i)] = true;
    int32_t current = -1;
    for (const int32_t token : text.target) {
      if (is_sentinel.contains(token)) {
        current = token;
      } else if (token != tokenizer_->eos_id()) {
        spans[current].push_back(token);
      }
    }
    std::vector<int32_t> restored;
    for (const int32_t token : text.input) {
      if (is_sentinel.contains(token)) {
        restored.insert(restored.end(), spans[token].begin(), spans[token].end());
      } else if (token != tokenizer_->eos_id()) {
        restored.push_back(token);
      }
    }
    return restored;
  }

  static Folder* folder_;
  static Tokenizer* tokenizer_;
};
Folder* CorruptSpansTest::folder_ = nullptr;
Tokenizer* CorruptSpansTest::tokenizer_ = nullptr;

TEST_F(CorruptSpansTest, LosesNoTokenOfAnyLength) {
  Random random({1});
  for (const SpanCorruption corruption : {SpanCorruption{},
                                          {.noise_density = 0.5, .mean_span_tokens = 1},
                                          {.noise_density = 0.05, .mean_span_tokens = 10}}) {
    for (int64_t count = 2; count < 600; count += 1 + count / 10) {
      const std::vector<int32_t> tokens = Numbered(count);
      const CorruptedText text = CorruptSpans(tokens, corruption, *tokenizer_, random);
      EXPECT_EQ(Restore(text), tokens);
      EXPECT_EQ(text.input.back(), tokenizer_->eos_id());
      EXPECT_EQ(text.target.back(), tokenizer_->eos_id());
      EXPECT_EQ(text.target.front(), tokenizer_->sentinel_id(0));
    }
  }
}

TEST_F(CorruptSpansTest, TakesOutTheAskedShareInSpansOfTheAskedLength) {
  Random random({1});
  const CorruptedText text = CorruptSpans(Numbered(200), {}, *tokenizer_, random);
  // 30 tokens of 200 in 10 spans: 170 + 10 sentinels + </s>, and 30 + 10 + </s>.
  EXPECT_EQ(text.input.size(), 181);
  EXPECT_EQ(text.target.size(), 41);
}

TEST_F(CorruptSpansTest, NeedsNoMoreSentinelsThanThereAre) {
  Random random({1});
  const CorruptedText text = CorruptSpans(
      Numbered(4096), {.noise_density = 0.5, .mean_span_tokens = 1}, *tokenizer_, random);
  EXPECT_EQ(text.target.size(), 2048 + kSentinelCount + 1);
}

TEST_F(CorruptSpansTest, ReachesEveryPlaceOfTheText) {
  for (const int64_t count : {20, 60}) {  // one span, and three
    std::map<int32_t, int> corrupted;
    for (int64_t seed = 0; seed < 500; ++seed) {
      Random random({seed});
      for (const int32_t token : CorruptSpans(Numbered(count), {}, *tokenizer_, random).target) {
        if (token >= 1000) ++corrupted[token];
      }
    }
    EXPECT_EQ(corrupted.size(), count);
  }
}

}  // namespace
}  // namespace tasuki
