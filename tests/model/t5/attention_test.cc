#include "model/t5/attention.h"

#include <ATen/ATen.h>

#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/t5/tiny_t5.h"

namespace tasuki {
namespace {

using at::Tensor;
using ::testing::ElementsAre;

// Where the buckets of 32 with a largest distance of 128 begin, as transformers has them.
TEST(RelativePositionBucket, IsExactForNearPositionsAndLogarithmicForFarOnes) {
  const T5Config config;
  const std::vector<int64_t> begin_of = {0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91};
  for (int64_t distance = 0; distance < 600; ++distance) {
    int64_t expected = 0;
    while (expected + 1 < 16 && begin_of[expected + 1] <= distance) ++expected;
    EXPECT_EQ(RelativePositionBucket(-distance, true, config), expected) << distance;
    EXPECT_EQ(RelativePositionBucket(distance, true, config), expected + (distance > 0 ? 16 : 0))
        << distance;
  }
}

TEST(RelativePositionBucket, SpendsAllBucketsOnEarlierKeysInTheDecoder) {
  const T5Config config;
  const std::vector<int64_t> begin_of = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10,
                                         11, 12, 13, 14, 15, 16, 19, 21, 24, 27, 31,
                                         35, 40, 46, 52, 59, 67, 77, 87, 99, 113};
  for (int64_t distance = 0; distance < 600; ++distance) {
    int64_t expected = 0;
    while (expected + 1 < 32 && begin_of[expected + 1] <= distance) ++expected;
    EXPECT_EQ(RelativePositionBucket(-distance, false, config), expected) << distance;
    EXPECT_EQ(RelativePositionBucket(distance, false, config), 0) << distance;
  }
}

TEST(GroupByLength, KeepsShortOnesTogetherAndLongOnesApart) {
  EXPECT_THAT(GroupByLength({3, 32, 1}), ElementsAre(ElementsAre(1, 0, 2)));
  EXPECT_THAT(GroupByLength({20, 512, 300, 90, 255, 60}),
              ElementsAre(ElementsAre(1, 2), ElementsAre(4), ElementsAre(3, 5), ElementsAre(0)));
  EXPECT_THAT(GroupByLength({}), ElementsAre());
}

TEST(RoundUpSize, ComesToFewSizesThatAreLittleMore) {
  std::set<int64_t> sizes;
  for (int64_t size = 1; size <= 512; ++size) {
    const int64_t rounded = RoundUpSize(size);
    EXPECT_GE(rounded, size);
    EXPECT_LE(4 * rounded, 5 * size + 3) << size;
    EXPECT_EQ(RoundUpSize(rounded), rounded);
    EXPECT_EQ(RoundUpSize(size, 8) % 8, 0);
    sizes.insert(rounded);
  }
  EXPECT_EQ(sizes.size(), 32);
  EXPECT_EQ(RoundUpSize(22, 8), 24);
  EXPECT_EQ(RoundUpSize(3, 8), 8);
}

// Of every query for every key, as the operators want them.
TEST(PositionBias, LooksUpBucketsAndHidesKeysThatAreLaterOrBehindTheEnd) {
  const T5Config config = TinyConfig();
  const int64_t length = 40;
  const Tensor table = at::randn({32, 3}), lengths = at::tensor(std::vector<int64_t>{25, 40});
  for (const bool bidirectional : {true, false}) {
    const Tensor distances = DistanceBias(table, length, bidirectional, config);
    const Tensor bias = PositionBias(distances, bidirectional ? lengths : Tensor(), at::kFloat);
    ASSERT_EQ(bias.sizes(), at::IntArrayRef({bidirectional ? 2 : 1, 3, length, length}));
    EXPECT_EQ(bias.stride(3), 1);
    EXPECT_EQ(bias.stride(2), 48) << "rows begin at multiples of 16";
    const auto value = bias.accessor<float, 4>();
    for (int64_t sequence = 0; sequence < bias.size(0); ++sequence) {
      for (int64_t query = 0; query < length; ++query) {
        for (int64_t key = 0; key < length; ++key) {
          const bool seen = bidirectional ? key < (sequence == 0 ? 25 : 40) : key <= query;
          const int64_t bucket = RelativePositionBucket(key - query, bidirectional, config);
          ASSERT_EQ(value[sequence][1][query][key],
                    seen ? table[bucket][1].item<float>() : -INFINITY)
              << sequence << " " << query << " " << key;
        }
      }
    }
  }
}

TEST(KeyBias, HidesWhatIsBehindTheEnd) {
  const Tensor bias = KeyBias(at::tensor(std::vector<int64_t>{1, 3, 2}), 3, at::kFloat);
  ASSERT_EQ(bias.sizes(), at::IntArrayRef({3, 1, 1, 3}));
  EXPECT_EQ(bias.stride(0), 16);
  const float unseen = -INFINITY;
  EXPECT_TRUE(
      at::equal(bias.reshape({3, 3}),
                at::tensor({0.f, unseen, unseen, 0.f, 0.f, 0.f, 0.f, 0.f, unseen}).view({3, 3})));
}

}  // namespace
}  // namespace tasuki
