#include "demo/templates.h"

#include <map>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace demo {
namespace {

using ::testing::IsEmpty;

std::map<std::string, const Strings*> ListsOf(const Fillers& fillers) {
  return {{"products", &fillers.products}, {"places", &fillers.places},
          {"people", &fillers.people},     {"colors", &fillers.colors},
          {"days", &fillers.days},         {"cares", &fillers.cares},
          {"mistakes", &fillers.mistakes}, {"gains", &fillers.gains},
          {"losses", &fillers.losses},     {"qualities", &fillers.qualities}};
}

// Those of `strings` that `others` has too.
Strings Common(const Strings& strings, const Strings& others) {
  const std::set<std::string> set(others.begin(), others.end());
  Strings common;
  for (const std::string& string : strings) {
    if (set.count(string) > 0) common.push_back(string);
  }
  return common;
}

std::string AllText() {
  std::string text;
  for (const auto& [name, fillers] : ListsOf(kTrainFillers)) {
    for (const std::string& filler : *fillers) text += filler;
  }
  for (const Lists* lists : {&kShared, &kCounterfactualTrain, &kSentimentTrain}) {
    for (const auto& [name, patterns] : *lists) {
      for (const std::string& pattern : patterns) text += pattern;
    }
  }
  return text;
}

TEST(TemplatesTest, NoFillerOfTheTestRowsIsOneOfTraining) {
  const auto train = ListsOf(kTrainFillers);
  for (const auto& [name, fillers] : ListsOf(kTestFillers)) {
    EXPECT_FALSE(fillers->empty()) << name;
    EXPECT_THAT(Common(*fillers, *train.at(name)), IsEmpty()) << name;
  }
}

TEST(TemplatesTest, NoStatementOfTheTestRowsHasAPatternOfTraining) {
  for (const char* list : {"C", "F"}) {
    EXPECT_THAT(Common(kCounterfactualTest.at(list), kCounterfactualTrain.at(list)), IsEmpty());
  }
  for (const char* list : {"same", "none"}) {
    EXPECT_THAT(Common(kSentimentTest.at(list), kSentimentTrain.at(list)), IsEmpty());
  }
}

// A test row asks for grammar, not for characters that the tokenizer never saw.
TEST(TemplatesTest, EveryCharacterOfATestFillerIsInTheTrainingTexts) {
  const std::string known = AllText();
  for (const auto& [name, fillers] : ListsOf(kTestFillers)) {
    for (const std::string& filler : *fillers) {
      for (size_t begin = 0, end; begin < filler.size(); begin = end) {
        end = begin + 1;
        while (end < filler.size() && (filler[end] & 0xC0) == 0x80) ++end;
        const std::string character = filler.substr(begin, end - begin);
        EXPECT_NE(known.find(character), std::string::npos) << character << " of " << filler;
      }
    }
  }
}

}  // namespace
}  // namespace demo
