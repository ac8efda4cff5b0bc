#include "model/t5/graphs.h"

#include <ATen/ATen.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/fake_graphs.h"

namespace tasuki {
namespace {

class GraphCacheTest : public ::testing::Test {
 protected:
  int64_t SumOf(const std::vector<int64_t>& shape, const std::vector<int64_t>& numbers) {
    return cache_
        .Run(shape, numbers,
             [this](const at::Tensor& numbers) {
               ++passes_;
               return numbers.sum();
             })
        .item<int64_t>();
  }

  int replays_ = 0, passes_ = 0;
  GraphCache cache_{at::kCPU, std::make_unique<FakeGraphMaker>(&replays_)};
};

TEST_F(GraphCacheTest, CapturesTheThirdPassOfAShapeAndReplaysItOnNewNumbers) {
  for (int i = 0; i < 2; ++i) EXPECT_EQ(SumOf({3}, {i, 2, 3}), i + 5);
  EXPECT_EQ(cache_.captured(), 0);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(SumOf({3}, {i, 2, 3}), i + 5);
    EXPECT_EQ(cache_.captured(), 1);
    EXPECT_EQ(replays_, i + 1);
  }
}

TEST_F(GraphCacheTest, KeepsShapesApart) {
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(SumOf({3}, {i, 2, 3}), i + 5);
    EXPECT_EQ(SumOf({2}, {i, 1}), i + 1);
  }
  EXPECT_EQ(cache_.captured(), 2);
  cache_.Clear();
  EXPECT_EQ(cache_.captured(), 0);
  EXPECT_EQ(SumOf({2}, {1, 1}), 2);
}

TEST_F(GraphCacheTest, ComputesAsItIsWhatCannotBeCaptured) {
  GraphCache unable(at::kCPU, std::make_unique<FakeGraphMaker>(&replays_, /*able=*/false));
  for (int64_t i = 0; i < 6; ++i) {
    const auto pass = [](const at::Tensor& numbers) { return numbers + 1; };
    EXPECT_EQ(unable.Run({1}, {i}, pass).item<int64_t>(), i + 1);
  }
  EXPECT_EQ(unable.captured(), 0);
  EXPECT_EQ(replays_, 0);
}

TEST_F(GraphCacheTest, PassesOnWhatAPassThrows) {
  const auto throws = [](const at::Tensor&) -> at::Tensor { throw std::runtime_error("no"); };
  for (int i = 0; i < 4; ++i) EXPECT_THROW(cache_.Run({1}, {i}, throws), std::runtime_error);
}

TEST(GraphCache, HasNoGraphsOnACpu) {
  GraphCache cache{at::Device(at::kCPU)};
  for (int64_t i = 0; i < 4; ++i) {
    const auto pass = [](const at::Tensor& numbers) { return numbers * 2; };
    EXPECT_EQ(cache.Run({1}, {i}, pass).item<int64_t>(), 2 * i);
  }
  EXPECT_EQ(cache.captured(), 0);
}

TEST(Numbers, AreReadInTheOrderInWhichTheyWereWritten) {
  NumberWriter writer;
  writer.Add(std::vector<int64_t>{4, -1});
  writer.Add(std::vector<double>{.25, -1e300, 0});
  writer.Add(std::vector<int64_t>{7});
  NumberReader reader(at::tensor(writer.numbers(), at::kLong));
  EXPECT_TRUE(at::equal(reader.Next(2), at::tensor(std::vector<int64_t>{4, -1})));
  EXPECT_TRUE(at::equal(reader.NextDoubles(3),
                        at::tensor(std::vector<double>{.25, -1e300, 0}, at::kDouble)));
  EXPECT_EQ(reader.Next(1).item<int64_t>(), 7);
}

}  // namespace
}  // namespace tasuki
