#include "model/recipe/version_name.h"

#include <gtest/gtest.h>

namespace tasuki {
namespace {

TEST(VersionName, ReadsAndWritesTheSameName) {
  const auto name = VersionName::Parse("models/a-1/versions/12");
  ASSERT_TRUE(name.has_value());
  EXPECT_EQ(name->model, "models/a-1");
  EXPECT_EQ(name->version, 12);
  EXPECT_EQ(name->ToString(), "models/a-1/versions/12");
  EXPECT_EQ(name->Short(), "a-1@12");
}

TEST(VersionName, RefusesEveryOtherForm) {
  for (const char* text :
       {"", "models/a", "models/a/versions/", "models/a/versions/0", "models/a/versions/-1",
        "models/a/versions/01", "models/a/versions/+1", "models/a/versions/ 1",
        "models/a/versions/1 ", "models/a/versions/1/x", "models/A/versions/1",
        "models/../versions/1", "models/a/b/versions/1", "models//versions/1", "a/versions/1",
        "models/a/versions/99999999999999999999"}) {
    EXPECT_FALSE(VersionName::Parse(text).has_value()) << text;
  }
}

TEST(ModelName, IsPlainEnoughForAPath) {
  EXPECT_TRUE(IsModelName("models/a"));
  EXPECT_TRUE(IsModelName("models/" + std::string(63, 'a')));
  for (const std::string& name :
       {std::string("models/"), std::string("models/-a"), std::string("models/a-"),
        std::string("models/1"), std::string("models/a/b"), std::string("models/.."),
        std::string("models/a.b"), "models/" + std::string(64, 'a')}) {
    EXPECT_FALSE(IsModelName(name)) << name;
  }
}

}  // namespace
}  // namespace tasuki
