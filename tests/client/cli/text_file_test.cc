#include "client/cli/text_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/client/fake_server.h"

namespace tasuki::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class TextFileTest : public testing::Test {
 protected:
  // All texts of a file of these bytes; the last one is the error, if there is one.
  std::vector<std::string> Read(const std::string& bytes, TextFormat format) {
    std::ofstream(scratch_ / "file", std::ios::binary) << bytes;
    auto file = TextFile::Open(scratch_ / "file", format);
    if (!file.ok()) return {std::string(file.status().message())};
    std::vector<std::string> texts;
    while (true) {
      const auto text = (*file)->Next();
      if (!text.ok()) texts.emplace_back(text.status().message());
      if (!text.ok() || !text->has_value()) break;
      texts.push_back(**text);
    }
    if (!texts.empty() && texts.back().find("file:") == std::string::npos) {
      EXPECT_EQ((*file)->done_bytes(), bytes.size());
    }
    EXPECT_EQ((*file)->total_bytes(), bytes.size());
    return texts;
  }
  static TextFormat Of(TextFormat::Kind kind, const std::string& column = "text") {
    return {.kind = kind, .text_column = column};
  }

  ScratchDirectory scratch_;
};

TEST_F(TextFileTest, KnowsTheKindByTheName) {
  EXPECT_EQ(TextFormat::KindOf("a/b.TSV"), TextFormat::kTsv);
  EXPECT_EQ(TextFormat::KindOf("b.csv"), TextFormat::kCsv);
  EXPECT_EQ(TextFormat::KindOf("b.jsonl"), TextFormat::kJsonLines);
  EXPECT_EQ(TextFormat::KindOf("b.txt"), TextFormat::kLines);
  EXPECT_EQ(TextFormat::KindOf("-"), TextFormat::kLines);
}

TEST_F(TextFileTest, ReadsLinesEmptyOnesToo) {
  EXPECT_THAT(Read("\xef\xbb\xbf良い\r\n\n last", Of(TextFormat::kLines)),
              ElementsAre("良い", "", " last"));
  EXPECT_THAT(Read("", Of(TextFormat::kLines)), ElementsAre());
}

TEST_F(TextFileTest, ReadsAColumnOfCsvWithQuotesAndLineEndsInThem) {
  EXPECT_THAT(Read("\xef\xbb\xbfid,text,label\r\n1,\"a, \"\"b\"\"\",x\r\n\r\n2,\"two\nlines\",y\n"
                   "3,in\"ner,z\n4,\"\",w",
                   Of(TextFormat::kCsv)),
              ElementsAre("a, \"b\"", "two\nlines", "in\"ner", ""));
}

TEST_F(TextFileTest, ReadsAColumnOfTsvWithAndWithoutQuoting) {
  EXPECT_THAT(Read("sentence\tn\n\"a\tb\"\t1\nc\t2\n", Of(TextFormat::kTsv, "sentence")),
              ElementsAre("a\tb", "c"));
  TextFormat plain = Of(TextFormat::kTsv);
  plain.quoting = false;
  EXPECT_THAT(Read("text\tn\n\"a\t1\n", plain), ElementsAre("\"a"));
}

TEST_F(TextFileTest, ReadsAKeyOfJsonLines) {
  EXPECT_THAT(
      Read("{\"text\":\"a\\nb\"}\n \n{\"n\":1,\"text\":\"良い\"}\n", Of(TextFormat::kJsonLines)),
      ElementsAre("a\nb", "良い"));
  EXPECT_THAT(Read("{\"body\":\"x\"}\n", Of(TextFormat::kJsonLines, "body")), ElementsAre("x"));
}

TEST_F(TextFileTest, NamesTheLineAndWhatIsWrongWithIt) {
  const auto last = [&](const std::string& bytes, const TextFormat& format) {
    return Read(bytes, format).back();
  };
  EXPECT_THAT(last("id,body\n1,a\n", Of(TextFormat::kCsv)),
              HasSubstr("has no column \"text\"; its columns are id, body"));
  EXPECT_THAT(last("text,text\n", Of(TextFormat::kCsv)), HasSubstr("more than one column"));
  EXPECT_THAT(last("", Of(TextFormat::kCsv)), HasSubstr("is empty"));
  EXPECT_THAT(last("text,n\na,1\nb\n", Of(TextFormat::kCsv)),
              HasSubstr("file:3 has 1 fields where the header has 2"));
  EXPECT_THAT(last("text\na\n\"b\nc\n", Of(TextFormat::kCsv)),
              HasSubstr("file:3 opens a quote that is not closed"));
  EXPECT_THAT(last("text\n\"a\"b\n", Of(TextFormat::kCsv)),
              HasSubstr("file:2 has something after the closing quote"));
  EXPECT_THAT(last("a\n\x83\x65\n", Of(TextFormat::kLines)), HasSubstr("file:2 is not UTF-8"));
  EXPECT_THAT(last("{\"text\":1}\n", Of(TextFormat::kJsonLines)),
              HasSubstr("file:1 is not a JSON object with a string \"text\""));
  EXPECT_EQ(TextFile::Open(scratch_ / "none", {}).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace tasuki::cli
