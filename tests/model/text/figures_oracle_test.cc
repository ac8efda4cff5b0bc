// Figures of random answers against scikit-learn's: golden/figures.jsonl holds 40 that
// tests/oracles/figures.py wrote. TASUKI_FIGURES names a longer file.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/text/figures.h"

namespace tasuki {
namespace {

v1::Evaluation FiguresOf(const nlohmann::json& answers) {
  v1::Evaluation figures;
  const int classes = answers["classes"];
  if (classes > 0) {
    FillFigures(answers["gold"].get<std::vector<int>>(),
                answers["predicted"].get<std::vector<int>>(), classes, figures);
  } else {
    FillFigures(answers["gold"].get<std::vector<std::string>>(),
                answers["predicted"].get<std::vector<std::string>>(), figures);
  }
  return figures;
}

TEST(Figures, OfRandomAnswersAreThoseOfScikitLearn) {
  const char* longer = std::getenv("TASUKI_FIGURES");
  std::ifstream file(
      longer != nullptr ? longer : TASUKI_SOURCE_DIR "/tests/model/text/golden/figures.jsonl");
  ASSERT_TRUE(file);
  int count = 0;
  double worst = 0;
  for (std::string line; std::getline(file, line); ++count) {
    const nlohmann::json answers = nlohmann::json::parse(line);
    const v1::Evaluation figures = FiguresOf(answers);
    const auto* descriptor = v1::Evaluation::descriptor();
    for (const auto& [name, expected] : answers["figures"].items()) {
      const double value =
          figures.GetReflection()->GetDouble(figures, descriptor->FindFieldByName(name));
      const double off = std::abs(value - expected.get<double>());
      EXPECT_LE(off, 1e-12) << name << " of " << line;
      worst = std::max(worst, off);
    }
  }
  std::cout << count << " times ten figures, largest difference " << worst << "\n";
  EXPECT_GE(count, 40);
}

}  // namespace
}  // namespace tasuki
