#include "model/text/calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

namespace tasuki {
namespace {

using testing::ElementsAre;

// Log-softmax of logits, in double; then as scores are kept.
std::vector<float> LogP(const std::vector<double>& logits) {
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit);
  std::vector<float> log_p;
  for (const double logit : logits) log_p.push_back(static_cast<float>(logit - std::log(sum)));
  return log_p;
}

// Two labels, the first with probability `p`.
std::vector<float> Coin(double p) {
  return {static_cast<float>(std::log(p)), static_cast<float>(std::log(1 - p))};
}

struct Rows {
  LabelScores scores;
  std::vector<int> gold;
};

// Eight rows of three labels, for which scipy 1.17.1 and scikit-learn 1.8.0 have the figures below.
Rows EightRows() {
  Rows rows;
  for (const std::vector<double>& logits : std::vector<std::vector<double>>{{4, 1, 0},
                                                                            {3, 2.5, 0},
                                                                            {0, 5, 1},
                                                                            {1, 0, 3},
                                                                            {2, 2, -1},
                                                                            {6, 0, 0},
                                                                            {-2, 3, 2.5},
                                                                            {0, 1, 4}}) {
    rows.scores.push_back(LogP(logits));
  }
  rows.gold = {0, 1, 1, 2, 0, 1, 2, 2};
  return rows;
}

Rows RandomRows(unsigned seed, int count, int labels, double sharpness) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  Rows rows;
  for (int i = 0; i < count; ++i) {
    std::vector<double> logits(labels);
    for (double& logit : logits) logit = normal(random);
    // The right label is drawn from the softmax of the logits, which are then sharpened.
    std::vector<double> weights;
    for (const double logit : logits) weights.push_back(std::exp(logit));
    rows.gold.push_back(std::discrete_distribution<int>(weights.begin(), weights.end())(random));
    for (double& logit : logits) logit *= sharpness;
    rows.scores.push_back(LogP(logits));
  }
  return rows;
}

TEST(Calibration, FitsTheTemperatureThatScipyFinds) {
  const Rows rows = EightRows();
  const double temperature = FitTemperature(rows.scores, rows.gold);
  EXPECT_NEAR(temperature, 2.5316539622472476, 1e-8);  // brentq on the derivative
  EXPECT_NEAR(MeanNll(rows.scores, rows.gold, 1), 1.1289873935189338, 1e-12);  // log_loss
  EXPECT_NEAR(MeanNll(rows.scores, rows.gold, temperature), 0.8608473135671713, 1e-12);
}

TEST(Calibration, FiguresAreThoseOfScikitLearn) {
  const Rows rows = EightRows();
  const double temperature = FitTemperature(rows.scores, rows.gold);
  const auto before = CalibrationFigures(rows.scores, rows.gold, 1);
  const auto after = CalibrationFigures(rows.scores, rows.gold, temperature);
  // brier_score_loss with scale_by_half=False
  EXPECT_NEAR(before.brier(), 0.5100181296057615, 1e-8);
  EXPECT_NEAR(after.brier(), 0.5055079340785669, 1e-8);
  EXPECT_NEAR(before.nll(), 1.1289873935189338, 1e-12);
  EXPECT_NEAR(after.nll(), 0.8608473135671713, 1e-12);
}

TEST(Calibration, UndoesASharpeningAndASoftening) {
  for (const double sharpness : {.25, .5, 1.0, 3.0, 10.0}) {
    const Rows rows = RandomRows(3, 20'000, 4, sharpness);
    const double temperature = FitTemperature(rows.scores, rows.gold);
    EXPECT_NEAR(temperature / sharpness, 1, .03) << sharpness;
    // Nothing near it is better.
    const double least = MeanNll(rows.scores, rows.gold, temperature);
    EXPECT_LE(least, MeanNll(rows.scores, rows.gold, temperature * 1.001));
    EXPECT_LE(least, MeanNll(rows.scores, rows.gold, temperature / 1.001));
    EXPECT_LE(least, MeanNll(rows.scores, rows.gold, 1));
  }
}

TEST(Calibration, NeverRaisesTheNllOfTheRowsThatItWasFittedOn) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    const Rows rows = RandomRows(seed, 1 + static_cast<int>(seed) % 30, 2 + seed % 5, 2);
    const double temperature = FitTemperature(rows.scores, rows.gold);
    EXPECT_GE(temperature, kMinTemperature);
    EXPECT_LE(temperature, kMaxTemperature);
    EXPECT_LE(MeanNll(rows.scores, rows.gold, temperature), MeanNll(rows.scores, rows.gold, 1));
  }
}

TEST(Calibration, StaysAtOneWhereNothingIsBetter) {
  // Three of four rows are right at 3/4: calibrated as it is.
  const LabelScores scores(4, Coin(.75));
  EXPECT_NEAR(FitTemperature(scores, {0, 0, 0, 1}), 1, 1e-6);
  // Every temperature gives one half.
  EXPECT_EQ(FitTemperature(LabelScores(3, Coin(.5)), {0, 1, 1}), 1);
  // One label alone is always right.
  EXPECT_EQ(FitTemperature(LabelScores(3, {0.0F}), {0, 0, 0}), 1);
}

TEST(Calibration, ReachesItsBoundsOnSeparableAndOnContraryRows) {
  const LabelScores scores = {Coin(.9), Coin(.6), Coin(.2), Coin(1e-30)};
  EXPECT_EQ(FitTemperature(scores, {0, 0, 1, 1}), kMinTemperature);
  EXPECT_EQ(FitTemperature(scores, {1, 1, 0, 0}), kMaxTemperature);
  const auto figures = CalibrationFigures(scores, {0, 0, 1, 1}, kMinTemperature);
  EXPECT_TRUE(std::isfinite(figures.nll()));
  EXPECT_LT(figures.nll(), 1e-3);
  EXPECT_LT(figures.ece(), 1e-3);
}

TEST(Calibration, StandsScoresOfAnySize) {
  const float infinity = std::numeric_limits<float>::infinity();
  const LabelScores scores = {{0, -5000}, {-5000, 0}, {0, -infinity}};
  EXPECT_EQ(FitTemperature(scores, {0, 1, 0}), 1);  // certain and right: nothing is better
  const double temperature = FitTemperature(scores, {0, 0, 0});
  EXPECT_EQ(temperature, kMaxTemperature);
  EXPECT_TRUE(std::isfinite(MeanNll(scores, {0, 0, 0}, temperature)));
  const std::vector<double> p = Probabilities(scores[2], kMinTemperature);
  EXPECT_THAT(p, ElementsAre(1, 0));
  // What is impossible and yet right leaves nothing to fit.
  EXPECT_EQ(FitTemperature(scores, {0, 1, 1}), 1);
}

TEST(Calibration, ProbabilitiesSharpenOrSoftenAndAddUpToOne) {
  EXPECT_THAT(Probabilities(Coin(.8), 1), ElementsAre(testing::DoubleNear(.8, 1e-7), testing::_));
  // Odds of 4 become their square, and their root.
  EXPECT_NEAR(Probabilities(Coin(.8), .5)[0], 16.0 / 17, 1e-7);
  EXPECT_NEAR(Probabilities(Coin(.8), 2)[0], 2.0 / 3, 1e-7);
  const std::vector<double> p = Probabilities(LogP({1, 2, 3, 4, 5}), 1.7);
  EXPECT_NEAR(std::accumulate(p.begin(), p.end(), 0.0), 1, 1e-15);
}

TEST(Calibration, WorkedExampleOfTwoBins) {
  // Fewer rows than bins: each has its own, of |accuracy - confidence| .4, .4, .2.
  const LabelScores scores = {Coin(.6), Coin(.4 + 1e-9), Coin(.8)};
  const auto figures = CalibrationFigures(scores, {0, 1, 0}, 1);
  ASSERT_EQ(figures.bins_size(), 3);
  EXPECT_NEAR(figures.ece(), (.4 + .4 + .2) / 3, 1e-6);
  // Two labels: twice the square of what is missing.
  EXPECT_NEAR(figures.brier(), 2 * (.16 + .16 + .04) / 3, 1e-6);
  EXPECT_NEAR(figures.nll(), -(2 * std::log(.6) + std::log(.8)) / 3, 1e-6);
  EXPECT_EQ(figures.bins(2).row_count(), 1);
  EXPECT_NEAR(figures.bins(2).mean_confidence(), .8, 1e-7);
  EXPECT_EQ(figures.bins(2).accuracy(), 1);
}

TEST(Calibration, RowsOfOneConfidenceShareABin) {
  LabelScores scores(40, Coin(.9));
  std::vector<int> gold(40, 0);
  for (int i = 0; i < 10; ++i) gold[i] = 1;
  auto figures = CalibrationFigures(scores, gold, 1);
  ASSERT_EQ(figures.bins_size(), 1);
  EXPECT_EQ(figures.bins(0).row_count(), 40);
  EXPECT_NEAR(figures.bins(0).accuracy(), .75, 1e-12);
  EXPECT_NEAR(figures.ece(), .15, 1e-7);
  // In whatever order they come.
  std::reverse(gold.begin(), gold.end());
  EXPECT_EQ(CalibrationFigures(scores, gold, 1).ece(), figures.ece());
}

// ECE by its definition, over rows sorted by confidence and cut into 15 pieces of equal size.
TEST(Calibration, EceIsThatOfFifteenPiecesOfEqualSize) {
  for (const double temperature : {.5, 1.0, 2.0}) {
    const Rows rows = RandomRows(11, 15 * 70, 3, 2);
    std::vector<std::pair<double, double>> answers;  // confidence, right
    for (size_t i = 0; i < rows.scores.size(); ++i) {
      double sum = 0, best = -1;
      int label = 0;
      for (int j = 0; j < 3; ++j) {
        const double weight = std::pow(std::exp(double{rows.scores[i][j]}), 1 / temperature);
        sum += weight;
        if (weight > best) {
          best = weight;
          label = j;
        }
      }
      answers.emplace_back(best / sum, label == rows.gold[i]);
    }
    std::sort(answers.begin(), answers.end());
    double ece = 0;
    for (int bin = 0; bin < 15; ++bin) {
      double confidence = 0, right = 0;
      for (int i = 0; i < 70; ++i) {
        confidence += answers[bin * 70 + i].first;
        right += answers[bin * 70 + i].second;
      }
      ece += std::abs(confidence - right) / (15 * 70);
    }
    const auto figures = CalibrationFigures(rows.scores, rows.gold, temperature);
    EXPECT_NEAR(figures.ece(), ece, 1e-12);
    ASSERT_EQ(figures.bins_size(), 15);
    for (const auto& bin : figures.bins()) EXPECT_EQ(bin.row_count(), 70);
  }
}

TEST(Calibration, BinsOfRowsThatFifteenDoesNotDivideDifferByOneAtMost) {
  for (const int count : {15, 16, 29, 31, 100, 934}) {
    const Rows rows = RandomRows(5, count, 3, 1);
    const auto figures = CalibrationFigures(rows.scores, rows.gold, 1);
    ASSERT_EQ(figures.bins_size(), 15) << count;
    int64_t sum = 0;
    for (const auto& bin : figures.bins()) {
      EXPECT_NEAR(static_cast<double>(bin.row_count()), count / 15.0, 1) << count;
      sum += bin.row_count();
    }
    EXPECT_EQ(sum, count);
  }
}

TEST(Calibration, ChoosesTheLowestThresholdOfAPrecision) {
  //            right  wrong     right     wrong     right
  const LabelScores scores = {Coin(.95), Coin(.9), Coin(.8), Coin(.7), Coin(.6)};
  const std::vector<int> gold = {0, 1, 0, 1, 0};
  auto chosen = ChooseThreshold(scores, gold, 1, .6);  // all five: 3/5
  ASSERT_TRUE(chosen.has_value());
  EXPECT_EQ(chosen->threshold, 0);
  EXPECT_DOUBLE_EQ(chosen->coverage, 1);
  chosen = ChooseThreshold(scores, gold, 1, .65);  // the first three: 2/3
  ASSERT_TRUE(chosen.has_value());
  EXPECT_NEAR(chosen->threshold, .8, 1e-7);
  EXPECT_DOUBLE_EQ(chosen->precision, 2.0 / 3);
  EXPECT_DOUBLE_EQ(chosen->coverage, .6);
  chosen = ChooseThreshold(scores, gold, 1, .99);  // the first alone
  ASSERT_TRUE(chosen.has_value());
  EXPECT_NEAR(chosen->threshold, .95, 1e-7);
  EXPECT_FALSE(ChooseThreshold(scores, {1, 1, 1, 1, 1}, 1, .1).has_value());
}

TEST(Calibration, ThresholdDoesNotPartRowsOfOneConfidence) {
  const LabelScores scores = {Coin(.9), Coin(.9), Coin(.7)};
  EXPECT_FALSE(ChooseThreshold(scores, {0, 1, 1}, 1, .6).has_value());
  const auto chosen = ChooseThreshold(scores, {0, 1, 1}, 1, .5);
  ASSERT_TRUE(chosen.has_value());
  EXPECT_NEAR(chosen->threshold, .9, 1e-7);
}

TEST(Calibration, OfATaskThatHasNoneSaysSo) {
  google::protobuf::RepeatedPtrField<v1::Calibration> calibrations;
  auto& mood = *calibrations.Add();
  mood.set_task("mood");
  mood.set_temperature(2);
  mood.set_calibrated(true);
  EXPECT_EQ(CalibrationOf(calibrations, "mood").temperature(), 2);
  const v1::Calibration none = CalibrationOf(calibrations, "other");
  EXPECT_EQ(none.task(), "other");
  EXPECT_EQ(none.temperature(), 1);
  EXPECT_FALSE(none.calibrated());
  EXPECT_FALSE(none.has_abstain_threshold());
}

}  // namespace
}  // namespace tasuki
