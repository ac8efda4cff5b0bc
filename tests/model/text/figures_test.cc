#include "model/text/figures.h"

#include <gtest/gtest.h>

namespace tasuki {
namespace {

// Expected values: sklearn.metrics with zero_division=0, and by hand.
TEST(Figures, AreThoseOfScikitLearn) {
  const std::vector<int> gold = {0, 0, 0, 1, 1, 2};
  const std::vector<int> predicted = {0, 0, 1, 1, 2, 2};
  v1::Evaluation figures;
  FillFigures(gold, predicted, 3, figures);
  EXPECT_EQ(figures.row_count(), 6);
  EXPECT_DOUBLE_EQ(figures.accuracy(), 4.0 / 6);
  EXPECT_DOUBLE_EQ(figures.macro_precision(), (1.0 + 0.5 + 0.5) / 3);
  EXPECT_DOUBLE_EQ(figures.macro_recall(), (2.0 / 3 + 0.5 + 1.0) / 3);
  EXPECT_DOUBLE_EQ(figures.macro_f1(), (0.8 + 0.5 + 2.0 / 3) / 3);
  EXPECT_DOUBLE_EQ(figures.micro_precision(), 4.0 / 6);
  EXPECT_DOUBLE_EQ(figures.micro_recall(), 4.0 / 6);
  EXPECT_DOUBLE_EQ(figures.micro_f1(), 4.0 / 6);
  EXPECT_DOUBLE_EQ(figures.majority_accuracy(), 0.5);
  EXPECT_DOUBLE_EQ(figures.majority_macro_f1(), (2.0 * 3 / 9) / 3);
}

TEST(Figures, CountADeclaredClassThatOccursNowhereAsZero) {
  const std::vector<int> right = {0, 1, 1, 0};
  v1::Evaluation figures;
  FillFigures(right, right, 4, figures);
  EXPECT_DOUBLE_EQ(figures.accuracy(), 1);
  EXPECT_DOUBLE_EQ(figures.macro_f1(), 0.5);
  EXPECT_DOUBLE_EQ(figures.macro_precision(), 0.5);
  EXPECT_DOUBLE_EQ(figures.macro_recall(), 0.5);
  EXPECT_DOUBLE_EQ(figures.micro_f1(), 1);
}

TEST(Figures, OfMajorityAnswersEqualTheMajorityFigures) {
  std::vector<int> gold(90, 0);
  gold.insert(gold.end(), 10, 1);
  const std::vector<int> zeros(100, 0);
  v1::Evaluation figures;
  FillFigures(gold, zeros, 2, figures);
  EXPECT_DOUBLE_EQ(figures.accuracy(), 0.9);
  EXPECT_DOUBLE_EQ(figures.accuracy(), figures.majority_accuracy());
  EXPECT_DOUBLE_EQ(figures.macro_f1(), figures.majority_macro_f1());
  EXPECT_DOUBLE_EQ(figures.macro_precision(), 0.45);
  EXPECT_DOUBLE_EQ(figures.macro_recall(), 0.5);
}

TEST(Figures, TakeAStringThatIsNoLabelForOneMoreClass) {
  const std::vector<std::string> gold = {"positive", "positive", "negative", "negative"};
  const std::vector<std::string> predicted = {"positive", "posit", "negative", ""};
  v1::Evaluation figures;
  FillFigures(gold, predicted, figures);
  EXPECT_DOUBLE_EQ(figures.accuracy(), 0.5);
  // Classes "", "negative", "posit", "positive".
  EXPECT_DOUBLE_EQ(figures.macro_f1(), (2.0 / 3 + 2.0 / 3) / 4);
  EXPECT_DOUBLE_EQ(figures.macro_precision(), 0.5);
  EXPECT_DOUBLE_EQ(figures.macro_recall(), 0.25);
  EXPECT_DOUBLE_EQ(figures.majority_accuracy(), 0.5);
  EXPECT_DOUBLE_EQ(figures.majority_macro_f1(), (2.0 / 3) / 2);
}

}  // namespace
}  // namespace tasuki
