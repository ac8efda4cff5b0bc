#include "server/rpc/tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "model/files/sha256.h"

namespace tasuki {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string Line(const std::string& name, const std::string& role, const std::string& token) {
  return absl::StrCat(name, " ", role, " sha256:", Sha256Of(token), "\n");
}

TEST(Tokens, AreFoundByTheirHash) {
  const auto tokens =
      Tokens::Parse("# ours\n\n" + Line("app1", "classify", "a") + "  \t\r\n" +
                    Line("ops", "admin", "b") + Line("x", "read", "c") + Line("y", "train", "d"));
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_EQ(tokens->size(), 4);
  ASSERT_NE(tokens->Find(Sha256Of("a")), nullptr);
  EXPECT_EQ(tokens->Find(Sha256Of("a"))->name, "app1");
  EXPECT_EQ(tokens->Find(Sha256Of("a"))->role, Role::kClassify);
  EXPECT_EQ(tokens->Find(Sha256Of("b"))->role, Role::kAdmin);
  EXPECT_EQ(tokens->Find(Sha256Of("c"))->role, Role::kRead);
  EXPECT_EQ(tokens->Find(Sha256Of("d"))->role, Role::kTrain);
  EXPECT_EQ(tokens->Find(Sha256Of("e")), nullptr);
  EXPECT_EQ(tokens->Find(""), nullptr);
  EXPECT_EQ(tokens->Find("-"), nullptr);
  // All bytes count: hashes that differ in one digit, at either end.
  std::string first = Sha256Of("a"), last = first;
  first.front() ^= 1;
  last.back() ^= 1;
  EXPECT_EQ(tokens->Find(first), nullptr);
  EXPECT_EQ(tokens->Find(last), nullptr);
}

TEST(Tokens, OfAnEmptyFileAreNone) {
  EXPECT_EQ(Tokens::Parse("")->size(), 0);
  EXPECT_EQ(Tokens::Parse("# nobody\n")->size(), 0);
}

TEST(Tokens, AFaultNamesItsLineAndNotWhatItHolds) {
  const std::string good = Line("app1", "read", "a");
  const std::string secret = "tasuki_secret";
  const std::pair<std::string, const char*> faults[] = {
      {"app2 read " + secret, "64 lower-case"},
      {secret, "NAME ROLE"},
      {"app2 read sha256:" + secret + " more", "NAME ROLE"},
      {"app2 owner sha256:" + Sha256Of("b"), "role"},
      {"app/2 read sha256:" + Sha256Of("b"), "name"},
      {"app2 read sha256:" + Sha256Of("b").substr(1), "64 lower-case"},
      {"app2 read sha256:" + Sha256Of("a"), "has the hash of \"app1\""},
      {"app1 read sha256:" + Sha256Of("b"), "twice"},
  };
  for (const auto& [line, words] : faults) {
    const auto tokens = Tokens::Parse(absl::StrCat(good, line));
    ASSERT_FALSE(tokens.ok()) << line;
    EXPECT_THAT(std::string(tokens.status().message()), HasSubstr("line 2: ")) << line;
    EXPECT_THAT(std::string(tokens.status().message()), HasSubstr(words)) << line;
    EXPECT_THAT(std::string(tokens.status().message()), Not(HasSubstr(secret)));
  }
  std::string many;
  for (int i = 0; i <= 1000; ++i) many += Line(absl::StrCat("a", i), "read", absl::StrCat(i));
  EXPECT_THAT(std::string(Tokens::Parse(many).status().message()), HasSubstr("more than 1000"));
}

}  // namespace
}  // namespace tasuki
