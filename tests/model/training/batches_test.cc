#include "model/training/batches.h"

#include <map>
#include <set>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/training/random.h"

namespace tasuki {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;

using Pairs = std::vector<std::pair<int, int64_t>>;

Pairs BatchOf(DataOrder& order, int64_t step) {
  Pairs pairs;
  for (const DataOrder::Example& example : order.BatchAt(step)) {
    pairs.emplace_back(example.task, example.row);
  }
  return pairs;
}

Pairs EpochOf(DataOrder& order, int64_t epoch) {
  Pairs pairs;
  for (int64_t i = 0; i < order.steps_per_epoch(); ++i) {
    const Pairs batch = BatchOf(order, epoch * order.steps_per_epoch() + i);
    pairs.insert(pairs.end(), batch.begin(), batch.end());
  }
  return pairs;
}

TEST(Random, IsTheSameEverywhere) {
  // SplitMix64 as its authors publish it, from state 0.
  Random random({});
  EXPECT_EQ(random.Next(), 0xe220a8397b1dcdaf);
  EXPECT_EQ(random.Next(), 0x6e789e6aa1b965f4);
}

TEST(Random, DrawsEveryNumberBelowTheBoundAboutEquallyOften) {
  Random random({12});
  std::map<int64_t, int> counts;
  for (int i = 0; i < 7000; ++i) ++counts[random.Below(7)];
  ASSERT_EQ(counts.size(), 7);
  EXPECT_EQ(counts.begin()->first, 0);
  for (const auto& [number, count] : counts) EXPECT_NEAR(count, 1000, 150) << number;
}

TEST(TokenRows, GivesBackWhatWasAdded) {
  TokenRows rows;
  rows.Add({5, 6});
  rows.Add({});
  rows.Add({7});
  ASSERT_EQ(rows.size(), 3);
  EXPECT_THAT(rows[0], ElementsAre(5, 6));
  EXPECT_TRUE(rows[1].empty());
  EXPECT_THAT(rows[2], ElementsAre(7));
}

TEST(DataOrder, ShowsEveryRowOnceAnEpochInAnotherOrder) {
  DataOrder order({5, 2}, v1::Recipe::PROPORTIONAL, 3, 12);
  ASSERT_EQ(order.steps_per_epoch(), 3);
  EXPECT_EQ(BatchOf(order, 2).size(), 1);  // the rest of the epoch
  const Pairs first = EpochOf(order, 0), second = EpochOf(order, 1);
  for (const Pairs& epoch : {first, second}) {
    EXPECT_THAT(epoch, UnorderedElementsAre(std::pair(0, 0), std::pair(0, 1), std::pair(0, 2),
                                            std::pair(0, 3), std::pair(0, 4), std::pair(1, 0),
                                            std::pair(1, 1)));
  }
  EXPECT_NE(first, second);
}

TEST(DataOrder, KnowsABatchWithoutTheBatchesBeforeIt) {
  for (const auto mixing : {v1::Recipe::PROPORTIONAL, v1::Recipe::EQUAL}) {
    DataOrder order({50, 7}, mixing, 4, 3), fresh({50, 7}, mixing, 4, 3),
        other({50, 7}, mixing, 4, 4);
    for (int64_t step = 0; step < 40; ++step) order.BatchAt(step);
    EXPECT_EQ(BatchOf(order, 40), BatchOf(fresh, 40));
    EXPECT_NE(BatchOf(order, 40), BatchOf(other, 40));
  }
}

TEST(DataOrder, DrawsTasksEquallyOftenAndEveryRowInTurn) {
  DataOrder order({30, 6}, v1::Recipe::EQUAL, 5, 12);
  std::map<std::pair<int, int64_t>, int> seen;
  for (int64_t epoch = 0; epoch < 5; ++epoch) {
    std::map<int, int> of_task;
    for (const auto& example : EpochOf(order, epoch)) {
      ++of_task[example.first];
      ++seen[example];
    }
    EXPECT_EQ(of_task[0], 18);
    EXPECT_EQ(of_task[1], 18);
  }
  // 90 draws of each task: three rounds of the first one's rows, fifteen of the second one's.
  for (const auto& [example, count] : seen) EXPECT_EQ(count, example.first == 0 ? 3 : 15);
  EXPECT_EQ(seen.size(), 36);
}

}  // namespace
}  // namespace tasuki
