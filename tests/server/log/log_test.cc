#include "server/log/log.h"

#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "spdlog/spdlog.h"

namespace tasuki {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

// The lines that `work` logs.
template <typename Work>
std::vector<std::string> Logged(LogFormat format, Work work) {
  testing::internal::CaptureStderr();
  SetUpLog(format);
  work();
  std::string text = testing::internal::GetCapturedStderr();
  EXPECT_THAT(text, EndsWith("\n"));
  text.pop_back();
  return absl::StrSplit(text, '\n');
}

class LogTest : public testing::Test {
 protected:
  LogTest() { SetLogLevel("info"); }
};

TEST_F(LogTest, ATextLineHasTimeLevelMessageAndFields) {
  const auto lines = Logged(LogFormat::kText, [] {
    spdlog::warn("disk {} is full", 3);
    const LogFields fields({{"trace_id", "0af7"}, {"request_id", ""}, {"code", "NotFound"}});
    spdlog::error("call failed: 'reviews'");
  });
  ASSERT_EQ(lines.size(), 2);
  constexpr char kTime[] = "[0-9-]+T[0-9:.]+[+-][0-9:]+ ";
  EXPECT_THAT(lines[0], MatchesRegex(absl::StrCat(kTime, "warning disk 3 is full")));
  EXPECT_THAT(lines[1], MatchesRegex(absl::StrCat(
                            kTime, "error call failed: 'reviews' .trace_id=0af7 code=NotFound.")));
}

TEST_F(LogTest, AJsonLineIsAnObject) {
  const auto lines = Logged(LogFormat::kJson, [] {
    const LogFields outer({{"trace_id", "0af7"}});
    {
      const LogFields inner({{"code", "Internal"}});
      spdlog::error("he said \"no\"\nand 日本 \xff");
    }
    spdlog::info("after");
  });
  ASSERT_EQ(lines.size(), 2);
  const auto line = nlohmann::json::parse(lines[0]);
  EXPECT_EQ(line["level"], "error");
  EXPECT_EQ(line["message"], "he said \"no\"\nand 日本 \uFFFD");
  EXPECT_EQ(line["trace_id"], "0af7");
  EXPECT_EQ(line["code"], "Internal");
  EXPECT_THAT(line["time"].get<std::string>(), MatchesRegex("[0-9-]+T[0-9:.]+[+-][0-9:]+"));
  EXPECT_FALSE(nlohmann::json::parse(lines[1]).contains("code"));
}

// What strangers send gets into messages: it must not look like lines of ours.
TEST_F(LogTest, AMessageStaysOneLine) {
  const auto lines = Logged(LogFormat::kText, [] {
    const LogFields fields({{"peer", "a\nb"}});
    spdlog::info("one\n2026-01-01 error two\x1b[31m\r");
  });
  ASSERT_EQ(lines.size(), 1);
  EXPECT_THAT(lines[0], EndsWith("info one\\n2026-01-01 error two\\x1b[31m\\x0d [peer=a\\nb]"));
}

TEST_F(LogTest, FieldsAreOfTheirThread) {
  const auto lines = Logged(LogFormat::kText, [] {
    const LogFields fields({{"trace_id", "0af7"}});
    std::thread([] { spdlog::info("of another"); }).join();
  });
  EXPECT_THAT(lines[0], Not(HasSubstr("trace_id")));
}

TEST_F(LogTest, TheLevelChangesWhileItRuns) {
  const auto lines = Logged(LogFormat::kText, [] {
    spdlog::debug("not yet");
    EXPECT_TRUE(SetLogLevel("debug"));
    EXPECT_EQ(LogLevelName(), "debug");
    spdlog::debug("now");
    EXPECT_FALSE(SetLogLevel("loud"));
    EXPECT_TRUE(SetLogLevel("error"));
    spdlog::warn("no more");
  });
  ASSERT_EQ(lines.size(), 1);
  EXPECT_THAT(lines[0], EndsWith("debug now"));
  for (const char* level : kLogLevels) {
    EXPECT_TRUE(SetLogLevel(level));
    EXPECT_EQ(LogLevelName(), level);
  }
}

TEST_F(LogTest, LinesAreCountedByLevel) {
  Metrics metrics;
  Logged(LogFormat::kText, [&] {
    {
      const LogCounter counter(metrics);
      spdlog::warn("one");
      spdlog::critical("two");
      spdlog::debug("not logged");
    }
    spdlog::warn("not counted");
  });
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("tasuki_log_messages_total{level=\"warning\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("tasuki_log_messages_total{level=\"error\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("tasuki_log_messages_total{level=\"debug\"} 0\n"));
}

}  // namespace
}  // namespace tasuki
