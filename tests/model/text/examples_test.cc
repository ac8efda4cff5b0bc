#include "model/text/examples.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"

namespace tasuki {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string PathOf(const std::string& name) {
  return absl::StrCat(testing::TempDir(), "examples_test.", getpid(), ".", name);
}

v1::Example ExampleOf(const std::string& text, const std::string& label) {
  v1::Example example;
  example.set_text(text);
  example.set_label(label);
  return example;
}

absl::Status Read(const std::string& path, std::vector<std::string>& texts, int64_t max_rows = -1) {
  return ReadExamples(
      path,
      [&](int64_t row, v1::Example example) {
        EXPECT_EQ(row, texts.size());
        texts.push_back(absl::StrCat(example.text(), "|", example.label()));
        return absl::OkStatus();
      },
      max_rows);
}

TEST(CanonicalLine, KeepsUnicodeAndOrder) {
  EXPECT_EQ(CanonicalLine(ExampleOf("日\"本\\\n\t\x01/", "良"), true),
            "{\"text\":\"日\\\"本\\\\\\n\\t\\u0001/\",\"label\":\"良\"}\n");
  EXPECT_EQ(CanonicalLine(ExampleOf("", "x"), false), "{\"text\":\"\"}\n");
}

TEST(ReadExamples, AnswersWhatCanonicalLinesHold) {
  const std::string path = PathOf("roundtrip");
  // The worst case: a text of the greatest size of which every byte is escaped.
  const std::string worst(kMaxTextBytes, '\x01');
  ASSERT_TRUE(WriteFile(path, absl::StrCat(CanonicalLine(ExampleOf("あ\r\n", "0"), true),
                                           CanonicalLine(ExampleOf(worst, " "), true)))
                  .ok());
  std::vector<std::string> texts;
  ASSERT_TRUE(Read(path, texts).ok());
  EXPECT_THAT(texts, ElementsAre("あ\r\n|0", absl::StrCat(worst, "| ")));
  texts.clear();
  ASSERT_TRUE(Read(path, texts, 1).ok());
  EXPECT_EQ(texts.size(), 1);
  std::filesystem::remove(path);
}

TEST(ReadExamples, StopsAtAnErrorOfItsSink) {
  const std::string path = PathOf("sink");
  ASSERT_TRUE(WriteFile(path, "{\"text\":\"a\"}\n{\"text\":\"b\"}\n").ok());
  int rows = 0;
  const absl::Status status = ReadExamples(path, [&](int64_t, v1::Example) {
    ++rows;
    return absl::CancelledError("enough");
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(rows, 1);
  std::filesystem::remove(path);
}

TEST(ReadExamples, RefusesAFileThatChanged) {
  const std::string path = PathOf("changed");
  for (const char* bytes :
       {"", "{\"text\":\"a\"}", "{\"text\":\"a\"}\n{\"text\":", "\n", "{\"label\":\"a\"}\n",
        "{\"text\":\"a\",\"label\":\"1\"}\n{\"text\":\"b\"}\n", "{\"text\":\"\xff\"}\n"}) {
    ASSERT_TRUE(WriteFile(path, bytes).ok());
    std::vector<std::string> texts;
    const absl::Status status = Read(path, texts);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << bytes;
    EXPECT_EQ(ReasonOf(status), v1::FILE_CHANGED);
  }
  std::filesystem::remove(path);
  std::vector<std::string> texts;
  EXPECT_EQ(Read(path, texts).code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace tasuki
