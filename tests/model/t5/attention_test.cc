#include "model/t5/attention.h"

#include <ATen/ATen.h>

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

TEST(HeadPadding, PutsEveryValueInItsPlaceAndBack) {
  const int64_t heads = 2, parts = 3, width = 4;
  const std::vector<int64_t> lengths = {2, 80, 3, 70};
  const std::vector<Group> groups = GroupByLength(lengths);
  ASSERT_EQ(groups.size(), 2);
  const HeadPadding padding(groups, lengths, heads, parts, at::kCPU);
  const Tensor rows = at::randn({155, parts * heads * width});
  const std::vector<Tensor> padded = padding.Pad(rows);
  ASSERT_EQ(padded.size(), groups.size() * parts);
  for (int64_t part = 0; part < parts; ++part) {
    // The second group holds sequences 2 (rows 82 to 84) and 0 (rows 0 and 1).
    const Tensor group = padded[parts + part].view({2, heads, 3, width});
    const Tensor of_part = rows.view({155, parts, heads, width}).select(1, part);
    EXPECT_TRUE(at::equal(group[0], of_part.slice(0, 82, 85).transpose(0, 1)));
    EXPECT_TRUE(at::equal(group[1].slice(1, 0, 2), of_part.slice(0, 0, 2).transpose(0, 1)));
    EXPECT_TRUE(at::equal(group[1].slice(1, 2, 3), at::zeros({heads, 1, width})));
  }
  const HeadPadding one(groups, lengths, heads, 1, at::kCPU);
  const Tensor part = rows.slice(1, 0, heads * width).contiguous();
  EXPECT_TRUE(at::equal(one.Unpad(one.Pad(part)), part));
}

TEST(PositionBias, LooksUpBucketsAndHidesLaterKeysOneWay) {
  const T5Config config = TinyConfig();
  const Tensor table = at::randn({32, 3});
  const Tensor both = PositionBias(table, 40, true, config);
  const Tensor one = PositionBias(table, 40, false, config);
  for (const auto& [query, key] :
       std::vector<std::pair<int, int>>{{0, 0}, {39, 0}, {0, 39}, {7, 9}}) {
    for (int head = 0; head < 3; ++head) {
      const int64_t bucket = RelativePositionBucket(key - query, true, config);
      EXPECT_EQ(both[head][query][key].item<float>(), table[bucket][head].item<float>());
      const float seen =
          table[RelativePositionBucket(key - query, false, config)][head].item<float>();
      EXPECT_EQ(one[head][query][key].item<float>(), key > query ? -INFINITY : seen);
    }
  }
}

}  // namespace
}  // namespace tasuki
