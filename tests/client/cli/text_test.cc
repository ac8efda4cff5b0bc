#include "client/cli/text.h"

#include <gtest/gtest.h>

#include "client/cli/table.h"

namespace tasuki::cli {
namespace {

TEST(Text, CountsWideCharactersAsTwoColumns) {
  struct Case {
    const char* text;
    int width;
  };
  for (const auto& [text, width] :
       {Case{"", 0}, Case{"abc", 3}, Case{"良い", 4}, Case{"ｶﾞ", 2}, Case{"か\u3099", 2},
        Case{"한글", 4}, Case{"é", 1}, Case{"e\u0301", 1}, Case{"Ａ１", 4}, Case{"😀", 2},
        Case{"𠮷", 2}, Case{"「。」", 6}, Case{"\xff", 1}}) {
    EXPECT_EQ(DisplayWidth(text), width) << text;
  }
}

TEST(Text, ShortensBetweenCharacters) {
  EXPECT_EQ(Shorten("short", 5), "short");
  EXPECT_EQ(Shorten("longer", 5), "lo...");
  EXPECT_EQ(Shorten("良い商品", 8), "良い商品");
  EXPECT_EQ(Shorten("良い商品", 7), "良い...");
  EXPECT_EQ(Shorten("良い商品", 6), "良...");
}

TEST(Text, TakesOutWhatATerminalWouldObey) {
  EXPECT_EQ(Printable("a\x1b[31mb\tc\nd\u009b\u202e\x7f"), "a [31mb c d   ");
  EXPECT_EQ(Printable("a\xffz\xe3\x81"), "a\uFFFDz\uFFFD\uFFFD");
  EXPECT_EQ(Printable("\xc0\xaf\xed\xa0\x80"), "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(Printable("襷 é 😀"), "襷 é 😀");
}

TEST(Text, WritesNumbersForPeople) {
  EXPECT_EQ(Count(0), "0");
  EXPECT_EQ(Count(999), "999");
  EXPECT_EQ(Count(1000), "1,000");
  EXPECT_EQ(Count(-1234567), "-1,234,567");
  EXPECT_EQ(Count(-123), "-123");
  EXPECT_EQ(Bytes(1023), "1023 B");
  EXPECT_EQ(Bytes(1536), "1.5 KiB");
  EXPECT_EQ(Bytes(3LL << 30), "3.0 GiB");
  EXPECT_EQ(Span(absl::Seconds(9)), "9 s");
  EXPECT_EQ(Span(absl::Seconds(80)), "1 min 20 s");
  EXPECT_EQ(Span(absl::Seconds(7500)), "2 h 05 min");
}

TEST(Table, AlignsJapaneseCells) {
  Table table({"TEXT", "LABEL", "P>"});
  table.Add({"とても良い", "positive", "0.9"});
  table.Add({"ok", "良", "10.25"});
  EXPECT_EQ(table.ToString(),
            "TEXT        LABEL         P\n"
            "とても良い  positive    0.9\n"
            "ok          良        10.25\n");
}

TEST(Text, TellsTimesToTheSecond) {
  google::protobuf::Timestamp time;
  EXPECT_EQ(DateTime(time), "-");
  time.set_seconds(1'795'442'709);
  EXPECT_EQ(DateTime(time).substr(DateTime(time).size() - 3), ":09");
}

TEST(Table, LeavesNoSpacesAtTheEndsOfLines) {
  Table table({"A", "B"});
  table.Add({"1", ""});
  table.Add({"1", "long"});
  EXPECT_EQ(table.ToString(), "A  B\n1\n1  long\n");
}

TEST(Details, LeavesOutWhatIsEmpty) {
  EXPECT_EQ(Details({{"name", "x"}, {"a longer name", ""}, {"size", "2"}}), "name  x\nsize  2\n");
}

}  // namespace
}  // namespace tasuki::cli
