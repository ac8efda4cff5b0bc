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

// Tasks of so many rows of one token, or of rows of these lengths.
TokenRows RowsOf(const std::vector<int64_t>& lengths) {
  TokenRows rows;
  for (const int64_t length : lengths) rows.Add(std::vector<int32_t>(length, 7));
  return rows;
}
TokenRows Rows(int64_t count) { return RowsOf(std::vector<int64_t>(count, 1)); }

v1::Recipe RecipeOf(v1::Recipe::Mixing mixing, int batch_size, int64_t seed) {
  v1::Recipe recipe;
  recipe.set_mixing(mixing);
  recipe.set_batch_size(batch_size);
  recipe.set_seed(seed);
  return recipe;
}

TEST(DataOrder, ShowsEveryRowOnceAnEpochInAnotherOrder) {
  const TokenRows five = Rows(5), two = Rows(2);
  DataOrder order({&five, &two}, RecipeOf(v1::Recipe::PROPORTIONAL, 3, 12));
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
    const TokenRows fifty = Rows(50), seven = Rows(7);
    DataOrder order({&fifty, &seven}, RecipeOf(mixing, 4, 3));
    DataOrder fresh({&fifty, &seven}, RecipeOf(mixing, 4, 3));
    DataOrder other({&fifty, &seven}, RecipeOf(mixing, 4, 4));
    for (int64_t step = 0; step < 40; ++step) order.BatchAt(step);
    EXPECT_EQ(BatchOf(order, 40), BatchOf(fresh, 40));
    EXPECT_NE(BatchOf(order, 40), BatchOf(other, 40));
  }
}

TEST(DataOrder, DrawsTasksEquallyOftenAndEveryRowInTurn) {
  const TokenRows thirty = Rows(30), six = Rows(6);
  DataOrder order({&thirty, &six}, RecipeOf(v1::Recipe::EQUAL, 5, 12));
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

TEST(DataOrder, TakesAsManyBatchesAStepAsAreAccumulated) {
  const TokenRows rows = Rows(30);
  v1::Recipe accumulating = RecipeOf(v1::Recipe::PROPORTIONAL, 4, 12);
  accumulating.set_gradient_accumulation_steps(3);
  DataOrder order({&rows}, accumulating);
  DataOrder big({&rows}, RecipeOf(v1::Recipe::PROPORTIONAL, 12, 12));
  ASSERT_EQ(order.steps_per_epoch(), 3);
  for (int64_t step = 0; step < 6; ++step) EXPECT_EQ(BatchOf(order, step), BatchOf(big, step));
}

TEST(DataOrder, CutsAnEpochIntoStepsOfAboutAsManyTokens) {
  std::vector<int64_t> lengths;
  for (int64_t row = 0; row < 100; ++row) lengths.push_back(5 + row % 40);
  const TokenRows rows = RowsOf(lengths);  // 2,250 tokens
  v1::Recipe recipe;
  recipe.set_mixing(v1::Recipe::PROPORTIONAL);
  recipe.set_batch_tokens(200);
  DataOrder order({&rows}, recipe);
  ASSERT_EQ(order.steps_per_epoch(), 12);
  for (int64_t epoch = 0; epoch < 2; ++epoch) {
    std::set<std::pair<int, int64_t>> seen;
    for (int64_t step = 12 * epoch; step < 12 * (epoch + 1); ++step) {
      int64_t tokens = 0;
      for (const auto& example : BatchOf(order, step)) {
        tokens += lengths[example.second];
        EXPECT_TRUE(seen.insert(example).second);
      }
      EXPECT_NEAR(static_cast<double>(tokens), 2250 / 12.0, 44) << step;
    }
    EXPECT_EQ(seen.size(), 100);
  }
  // Steps are not more than examples, and none is empty.
  recipe.set_batch_tokens(1);
  const TokenRows few = RowsOf({400, 1, 1, 1});
  DataOrder small({&few}, recipe);
  ASSERT_EQ(small.steps_per_epoch(), 4);
  for (int64_t step = 0; step < 4; ++step) EXPECT_EQ(BatchOf(small, step).size(), 1);
}

TEST(DataOrder, KnowsTheStepOfTheMostTokens) {
  std::vector<int64_t> lengths(40, 3);
  lengths[17] = 90;
  const TokenRows rows = RowsOf(lengths);
  DataOrder order({&rows}, RecipeOf(v1::Recipe::PROPORTIONAL, 8, 12));
  EXPECT_THAT(BatchOf(order, order.LongestStep()), ::testing::Contains(std::pair(0, 17)));
}

}  // namespace
}  // namespace tasuki
