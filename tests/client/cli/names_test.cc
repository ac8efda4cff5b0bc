#include "client/cli/names.h"

#include <gtest/gtest.h>

namespace tasuki::cli {
namespace {

using Rule = absl::StatusOr<std::string> (*)(absl::string_view);

TEST(Names, AreForgivingInForm) {
  struct Case {
    Rule rule;
    const char* typed;
    const char* name;
  };
  const Case cases[] = {
      {DatasetName, "d-0123", "datasets/d-0123"},
      {DatasetName, "datasets/d-0123", "datasets/d-0123"},
      {JobName, "nightly", "trainingJobs/nightly"},
      {JobName, "trainingJobs/nightly", "trainingJobs/nightly"},
      {ModelName, "sentiment", "models/sentiment"},
      {ModelName, "models/sentiment", "models/sentiment"},
      {VersionName, "sentiment@3", "models/sentiment/versions/3"},
      {VersionName, "models/sentiment/versions/3", "models/sentiment/versions/3"},
      {ServedName, "sentiment@production", "models/sentiment/aliases/production"},
      {ServedName, "models/sentiment/aliases/production", "models/sentiment/aliases/production"},
      {ModelOrVersionName, "sentiment", "models/sentiment"},
      {ModelOrVersionName, "models/sentiment", "models/sentiment"},
      {ModelOrVersionName, "sentiment@3", "models/sentiment/versions/3"},
      {ModelOrVersionName, "models/sentiment/versions/3", "models/sentiment/versions/3"},
  };
  for (const Case& c : cases) {
    const auto name = c.rule(c.typed);
    ASSERT_TRUE(name.ok()) << c.typed << ": " << name.status();
    EXPECT_EQ(*name, c.name);
    EXPECT_EQ(*c.rule(ShortName(*name)), c.name) << "the short form means the same";
  }
}

TEST(Names, RefuseWhatTheyCannotMean) {
  struct Case {
    Rule rule;
    const char* typed;
  };
  const Case cases[] = {
      {DatasetName, ""},
      {DatasetName, "datasets/"},
      {DatasetName, "models/m"},
      {DatasetName, "../d"},
      {JobName, "datasets/d"},
      {JobName, "a b"},
      {ModelName, "sentiment@3"},
      {ModelName, "models/m/versions/3"},
      {VersionName, "sentiment"},
      {VersionName, "sentiment@"},
      {VersionName, "sentiment@0"},
      {VersionName, "sentiment@prod"},
      {VersionName, "@3"},
      {ModelOrVersionName, "sentiment@"},
      {ModelOrVersionName, "models/m/versions/"},
      {ModelOrVersionName, "sentiment/3"},
  };
  for (const Case& c : cases) {
    EXPECT_TRUE(absl::IsInvalidArgument(c.rule(c.typed).status())) << c.typed;
  }
}

}  // namespace
}  // namespace tasuki::cli
