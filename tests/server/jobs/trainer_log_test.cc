#include "server/jobs/trainer_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace tasuki {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<std::string> LinesOf(const std::string& bytes, int count) {
  const std::string path = absl::StrCat(testing::TempDir(), "trainer_log_test.", getpid());
  std::ofstream(path, std::ios::binary) << bytes;
  std::vector<std::string> lines = LastLogLines(path, count);
  std::remove(path.c_str());
  return lines;
}

TEST(TrainerLog, AnswersTheLastLinesOldestFirst) {
  EXPECT_THAT(LinesOf("a\nb\nc\n", 2), ElementsAre("b", "c"));
  EXPECT_THAT(LinesOf("a\nb\nc\n", 10), ElementsAre("a", "b", "c"));
}

TEST(TrainerLog, CountsAnUnfinishedLineAndKeepsEmptyOnes) {
  EXPECT_THAT(LinesOf("a\n\nb", 3), ElementsAre("a", "", "b"));
}

TEST(TrainerLog, OfAMissingOrEmptyFileHasNoLines) {
  EXPECT_THAT(LastLogLines("/nonexistent/log", 5), IsEmpty());
  EXPECT_THAT(LinesOf("", 5), IsEmpty());
}

TEST(TrainerLog, MakesEveryLineUtf8) {
  EXPECT_THAT(LinesOf("\xE8\xA5\xB7 \xff \xE8\xA5\n", 1),
              ElementsAre("\xE8\xA5\xB7 \xEF\xBF\xBD \xEF\xBF\xBD\xEF\xBF\xBD"));
}

TEST(TrainerLog, CutsLinesAtFourKibibytesAndLooksAtTheLastMebibyteOnly) {
  const std::string line(2000, 'x');
  std::string bytes;
  for (int i = 0; i < 1000; ++i) bytes += line + "\n";
  const auto lines = LinesOf(bytes + std::string(10'000, 'y') + "\n", 10'000);
  EXPECT_LT(lines.size(), 600);
  EXPECT_GT(lines.size(), 400);
  EXPECT_EQ(lines.front(), line);
  EXPECT_EQ(lines.back(), std::string(4096, 'y'));
}

}  // namespace
}  // namespace tasuki
