#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/text/examples.h"

namespace tasuki {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Pair;

constexpr auto kTsv = v1::DatasetFormat::TSV;
constexpr auto kCsv = v1::DatasetFormat::CSV;
constexpr auto kJsonl = v1::DatasetFormat::JSONL;

v1::DatasetFormat Format(v1::DatasetFormat::Kind kind) {
  v1::DatasetFormat format;
  format.set_kind(kind);
  return format;
}

struct Parsed {
  absl::Status status;
  std::vector<std::pair<std::string, std::string>> rows;
  int64_t row_count = 0;
  bool labelled = false;
  std::vector<std::string> ignored;

  bool operator==(const Parsed&) const = default;
};

Parsed ParseInChunks(const v1::DatasetFormat& format, absl::string_view bytes, size_t chunk) {
  Parsed parsed;
  RowParser parser(format, [&](v1::Example example) {
    parsed.rows.emplace_back(example.text(), example.label());
    return absl::OkStatus();
  });
  for (size_t at = 0; at < bytes.size() && parsed.status.ok(); at += chunk) {
    parsed.status = parser.Feed(bytes.substr(at, chunk));
  }
  if (parsed.status.ok()) parsed.status = parser.Finish();
  parsed.row_count = parser.row_count();
  parsed.labelled = parser.labelled();
  parsed.ignored = parser.ignored_columns();
  return parsed;
}

// Parses whole and in pieces of several sizes, which must make no difference.
Parsed Parse(const v1::DatasetFormat& format, absl::string_view bytes) {
  const Parsed whole = ParseInChunks(format, bytes, bytes.size() + 1);
  for (const size_t chunk : {1, 2, 3, 7}) {
    const Parsed cut = ParseInChunks(format, bytes, chunk);
    EXPECT_TRUE(cut == whole) << "in chunks of " << chunk << ": " << cut.status
                              << "\nwhole: " << whole.status;
  }
  return whole;
}

TEST(RowParser, ReadsTsvWithQuotesAsRfc4180) {
  const Parsed parsed = Parse(Format(kTsv),
                              "text\tlabel\n"
                              "plain\t0\n"
                              "\"tab\there\"\t1\n"
                              "\"two\r\nlines\"\t0\n"
                              "\"say \"\"yes\"\"\"\t1\n"
                              "in \"the\" middle\t0\n"
                              "\t1\n");
  ASSERT_TRUE(parsed.status.ok()) << parsed.status;
  EXPECT_THAT(parsed.rows,
              ElementsAre(Pair("plain", "0"), Pair("tab\there", "1"), Pair("two\r\nlines", "0"),
                          Pair("say \"yes\"", "1"), Pair("in \"the\" middle", "0"), Pair("", "1")));
  EXPECT_EQ(parsed.row_count, 6);
  EXPECT_TRUE(parsed.labelled);
}

TEST(RowParser, TakesQuotesAsTheyAreWhenToldSo) {
  v1::DatasetFormat format = Format(kTsv);
  format.set_quoting(v1::DatasetFormat::NONE);
  const Parsed parsed = Parse(format, "text\tlabel\n\"open\t0\n\"a\"\"b\"\t1\n");
  ASSERT_TRUE(parsed.status.ok()) << parsed.status;
  EXPECT_THAT(parsed.rows, ElementsAre(Pair("\"open", "0"), Pair("\"a\"\"b\"", "1")));
}

TEST(RowParser, ReadsCrlfByteOrderMarkBlankLinesAndAMissingLastLineEnd) {
  const Parsed parsed =
      Parse(Format(kCsv), "\xef\xbb\xbf\"text\",label\r\n\r\n日本語,良\r\n\r\n\"x\",\"悪\"");
  ASSERT_TRUE(parsed.status.ok()) << parsed.status;
  EXPECT_THAT(parsed.rows, ElementsAre(Pair("日本語", "良"), Pair("x", "悪")));
}

TEST(RowParser, KeepsSpacesAndDoesNotNormalise) {
  const Parsed parsed = Parse(Format(kTsv), "text\tlabel\n  Ａ　b \t 1\n");
  ASSERT_TRUE(parsed.status.ok()) << parsed.status;
  EXPECT_THAT(parsed.rows, ElementsAre(Pair("  Ａ　b ", " 1")));
}

TEST(RowParser, FindsNamedColumnsAndListsTheOthers) {
  v1::DatasetFormat format = Format(kCsv);
  format.set_text_column("body");
  format.set_label_column("stars");
  const Parsed parsed = Parse(format, "id,stars,body,text\n7,5,good,t\n");
  ASSERT_TRUE(parsed.status.ok()) << parsed.status;
  EXPECT_THAT(parsed.rows, ElementsAre(Pair("good", "5")));
  EXPECT_THAT(parsed.ignored, ElementsAre("id", "text"));
}

TEST(RowParser, KeepsTextsOnlyWithoutALabelColumnOrWhenToldSo) {
  const Parsed without = Parse(Format(kTsv), "id\ttext\n1\tx\n");
  ASSERT_TRUE(without.status.ok()) << without.status;
  EXPECT_FALSE(without.labelled);
  EXPECT_THAT(without.rows, ElementsAre(Pair("x", "")));

  v1::DatasetFormat format = Format(kTsv);
  format.set_texts_only(true);
  format.set_label_column("id");
  const Parsed told = Parse(format, "id\ttext\n1\tx\n");
  ASSERT_TRUE(told.status.ok()) << told.status;
  EXPECT_FALSE(told.labelled);
  EXPECT_THAT(told.ignored, ElementsAre("id"));
}

TEST(RowParser, ReadsJsonLines) {
  const Parsed parsed = Parse(Format(kJsonl),
                              "{\"text\": \"a\\n\\u3042\\ud83d\\ude00\", \"label\": \"良\"}\n"
                              "\r\n"
                              "{\"label\":0,\"meta\":{\"a\":[1,{}]},\"text\":\"\"}\r\n"
                              "{\"label\":-1.50,\"text\":\"x\",\"id\":null}");
  ASSERT_TRUE(parsed.status.ok()) << parsed.status;
  EXPECT_THAT(parsed.rows, ElementsAre(Pair("a\nあ😀", "良"), Pair("", "0"), Pair("x", "-1.50")));
  EXPECT_THAT(parsed.ignored, ElementsAre("meta", "id"));
}

TEST(RowParser, ReadsJsonLinesWithoutLabels) {
  const Parsed parsed = Parse(Format(kJsonl), "{\"text\":\"a\"}\n{\"text\":\"b\"}\n");
  ASSERT_TRUE(parsed.status.ok()) << parsed.status;
  EXPECT_FALSE(parsed.labelled);
  EXPECT_THAT(parsed.rows, ElementsAre(Pair("a", ""), Pair("b", "")));
}

struct BadFile {
  const char* name;
  v1::DatasetFormat::Kind kind;
  std::string bytes;
  v1::ErrorReason reason;
  std::vector<std::string> says;
};

class RowParserOfBadFiles : public testing::TestWithParam<BadFile> {};

TEST_P(RowParserOfBadFiles, NamesRowColumnAndValue) {
  const Parsed parsed = Parse(Format(GetParam().kind), GetParam().bytes);
  EXPECT_EQ(parsed.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(v1::ErrorReason_Name(ReasonOf(parsed.status)), v1::ErrorReason_Name(GetParam().reason));
  for (const std::string& words : GetParam().says) {
    EXPECT_THAT(std::string(parsed.status.message()), HasSubstr(words));
  }
}

std::string Repeat(const char* text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

INSTANTIATE_TEST_SUITE_P(
    Table, RowParserOfBadFiles,
    testing::ValuesIn(std::vector<BadFile>{
        {"Empty", kTsv, "", v1::DATASET_EMPTY, {"the file is empty"}},
        {"ByteOrderMarkOnly", kTsv, "\xef\xbb\xbf", v1::DATASET_EMPTY, {"empty"}},
        {"BlankLinesOnly", kJsonl, "\n \r\n", v1::DATASET_EMPTY, {"empty"}},
        {"HeaderOnly", kTsv, "text\tlabel\n", v1::DATASET_EMPTY, {"header but no row"}},
        {"NoTextColumn",
         kTsv,
         "sentence\tlabel\na\tb\n",
         v1::COLUMN_MISSING,
         {"column \"text\" is not in the file", "\"sentence\", \"label\""}},
        {"TextColumnTwice", kCsv, "text,text\na,b\n", v1::COLUMN_MISSING, {"twice"}},
        {"LabelColumnTwice", kCsv, "label,text,label\na,b,c\n", v1::COLUMN_MISSING, {"\"label\""}},
        {"NoTextKey",
         kJsonl,
         "{\"body\":\"a\"}\n",
         v1::COLUMN_MISSING,
         {"column \"text\"", "\"body\""}},
        {"Gzip", kTsv, "\x1f\x8b\x08\x01", v1::UNSUPPORTED_FORMAT, {"gzip"}},
        {"ShortGzip", kTsv, "\x1f\x8b", v1::UNSUPPORTED_FORMAT, {"gzip"}},
        {"Zip", kCsv, "PK\x03\x04more", v1::UNSUPPORTED_FORMAT, {"zip"}},
        {"Parquet", kCsv, "PAR1....", v1::UNSUPPORTED_FORMAT, {"Parquet"}},
        {"Pdf", kTsv, "%PDF-1.7\n", v1::UNSUPPORTED_FORMAT, {"PDF"}},
        {"Utf16", kTsv, std::string("\xff\xfet\0e\0", 6), v1::UNSUPPORTED_FORMAT, {"UTF-16"}},
        {"Utf16WithoutMark", kTsv, std::string("t\0e\0\n\0", 6), v1::UNSUPPORTED_FORMAT, {"NUL"}},
        {"TooFewFields",
         kTsv,
         "text\tlabel\nok\t1\nalone\n",
         v1::ROWS_INVALID,
         {"1 of 2 rows", "row 2 (line 3): has 1 fields, the header has 2: \"alone\""}},
        {"TooManyFields", kCsv, "text,label\na,b,c\n", v1::ROWS_INVALID, {"row 1 (line 2): has 3"}},
        {"LineAfterAQuotedLineEnd",
         kCsv,
         "text,label\n\"a\nb\",1\n\"c\",\n",
         v1::ROWS_INVALID,
         {"row 2 (line 4): column \"label\" is empty"}},
        {"UnclosedQuote",
         kCsv,
         "text,label\na,1\n\"b,1\nc,1\n",
         v1::ROWS_INVALID,
         {"row 2 (line 3): column \"text\" opens with a quote that is not closed: "
          "\"\"b,1\\x0Ac,1"}},
        {"TextAfterQuote",
         kCsv,
         "text,label\n\"b\"x,1\n",
         v1::ROWS_INVALID,
         {"column \"text\" goes on after its closing quote"}},
        {"UnclosedQuoteInHeader", kCsv, "text,\"label\n", v1::ROWS_INVALID, {"of the header"}},
        {"ShiftJis",
         kCsv,
         "text,label\nok,1\nx\x93\xfa\x96\x7b,1\n",
         v1::ROWS_INVALID,
         {"row 2 (line 3): is not UTF-8 at byte 17 of the file: \"\\x93\\xFA"}},
        {"InvalidUtf8AfterMark",
         kCsv,
         "\xef\xbb\xbftext,label\n\xff,1\n",
         v1::ROWS_INVALID,
         {"at byte 14 of the file"}},
        {"InvalidUtf8InHeader", kCsv, "text,\xff\n", v1::ROWS_INVALID, {"header is not UTF-8"}},
        {"Surrogate", kCsv, "text\n\xed\xa0\x80\n", v1::ROWS_INVALID, {"not UTF-8"}},
        {"Nul",
         kCsv,
         std::string("text,label\na\0b,1\n", 17),
         v1::ROWS_INVALID,
         {"column \"text\" holds a NUL: \"a\\x00b\""}},
        {"NulInJson",
         kJsonl,
         "{\"text\":\"a\",\"label\":\"\\u0000\"}\n",
         v1::ROWS_INVALID,
         {"column \"label\" holds a NUL"}},
        {"EmptyLabel",
         kTsv,
         "text\tlabel\na\t\n",
         v1::ROWS_INVALID,
         {"row 1 (line 2): column \"label\" is empty"}},
        {"LongLabel",
         kTsv,
         "text\tlabel\na\t" + Repeat("x", 257) + "\n",
         v1::ROWS_INVALID,
         {"column \"label\" has 257 bytes, over 256: \"xxxxxxxxxxxxxxxxxxxxxxxx…\""}},
        {"NotJson", kJsonl, "{\"text\":}\n", v1::ROWS_INVALID, {"row 1 (line 1): is not JSON at"}},
        {"JsonThatGoesOn", kJsonl, "{\"text\":\"a\"} x\n", v1::ROWS_INVALID, {"is not JSON at"}},
        {"JsonArray", kJsonl, "[\"a\"]\n", v1::ROWS_INVALID, {"is not a JSON object: \"[\"a\"]\""}},
        {"JsonScalar", kJsonl, "17\n", v1::ROWS_INVALID, {"is not a JSON object"}},
        {"JsonDeep",
         kJsonl,
         "{\"x\":" + Repeat("[", 1000) + "\n",
         v1::ROWS_INVALID,
         {"is nested too deeply"}},
        {"JsonKeyTwice",
         kJsonl,
         "{\"text\":\"a\",\"text\":\"b\"}\n",
         v1::ROWS_INVALID,
         {"column \"text\" comes twice"}},
        {"JsonNumberForText",
         kJsonl,
         "{\"text\":17}\n",
         v1::ROWS_INVALID,
         {"column \"text\" is a number, not a string: \"17\""}},
        {"JsonNullLabel",
         kJsonl,
         "{\"text\":\"a\",\"label\":null}\n",
         v1::ROWS_INVALID,
         {"column \"label\" is null"}},
        {"JsonBooleanLabel",
         kJsonl,
         "{\"text\":\"a\",\"label\":true}\n",
         v1::ROWS_INVALID,
         {"column \"label\" is not a string: \"true\""}},
        {"JsonObjectForText",
         kJsonl,
         "{\"text\":{}}\n",
         v1::ROWS_INVALID,
         {"column \"text\" is an object"}},
        {"JsonLoneSurrogate", kJsonl, "{\"text\":\"\\ud800\"}\n", v1::ROWS_INVALID, {"not JSON"}},
        {"JsonInvalidUtf8", kJsonl, "{\"text\":\"\xff\"}\n", v1::ROWS_INVALID, {"at byte 9"}},
        {"JsonLabelMissing",
         kJsonl,
         "{\"text\":\"a\",\"label\":\"1\"}\n{\"text\":\"b\"}\n",
         v1::ROWS_INVALID,
         {"row 2 (line 2): column \"label\" is missing"}},
        {"JsonLabelOnlyLater",
         kJsonl,
         "{\"text\":\"a\"}\n{\"text\":\"b\",\"label\":\"1\"}\n",
         v1::ROWS_INVALID,
         {"row 2 (line 2): column \"label\" is there, but the first row has none"}},
        {"NoKind", v1::DatasetFormat::KIND_UNSPECIFIED, "text\na\n", v1::FIELD_INVALID, {"kind"}},
    }),
    [](const auto& info) { return info.param.name; });

TEST(RowParser, NamesAWantedLabelColumnThatIsNotThere) {
  v1::DatasetFormat format = Format(kCsv);
  format.set_label_column("stars");
  const Parsed parsed = Parse(format, "text,label\na,1\n");
  EXPECT_EQ(ReasonOf(parsed.status), v1::COLUMN_MISSING);
  EXPECT_THAT(std::string(parsed.status.message()), HasSubstr("column \"stars\""));
}

TEST(RowParser, RefusesOneColumnForTextAndLabel) {
  v1::DatasetFormat format = Format(kCsv);
  format.set_label_column("text");
  EXPECT_EQ(ReasonOf(Parse(format, "text\na\n").status), v1::FIELD_INVALID);
}

TEST(RowParser, ListsTheFirstTwentyBadRowsAndCountsAll) {
  std::string bytes = "text,label\n";
  for (int i = 0; i < 50; ++i) absl::StrAppend(&bytes, "good,1\nbad\n");
  const Parsed parsed = Parse(Format(kCsv), bytes);
  EXPECT_EQ(ReasonOf(parsed.status), v1::ROWS_INVALID);
  EXPECT_THAT(
      std::string(parsed.status.message()),
      AllOf(HasSubstr("50 of 100 rows"), HasSubstr("row 2 (line 3)"), HasSubstr("row 40 (line 41)"),
            Not(HasSubstr("row 42")), HasSubstr("; and 30 more")));
  EXPECT_EQ(parsed.row_count, 50);
}

TEST(RowParser, KeepsAnErrorWithinTheRoomOfTrailingMetadata) {
  std::string bytes = "text\n";
  for (int i = 0; i < 50; ++i) absl::StrAppend(&bytes, "\"", Repeat("日本語", 50), "\n\"x\n");
  const Parsed parsed = Parse(Format(kCsv), bytes);
  EXPECT_EQ(ReasonOf(parsed.status), v1::ROWS_INVALID);
  EXPECT_LT(parsed.status.message().size(), 1900);
}

TEST(RowParser, NumbersColumnsWhereThereIsNoHeader) {
  v1::DatasetFormat format = Format(kCsv);
  format.set_no_header(true);
  const Parsed parsed = Parse(format, "\xef\xbb\xbf\"良い\",5,x\r\n\r\n\"a,\"\"b\",1,y");
  ASSERT_TRUE(parsed.status.ok()) << parsed.status;
  EXPECT_THAT(parsed.rows, ElementsAre(Pair("良い", "5"), Pair("a,\"b", "1")));
  EXPECT_THAT(parsed.ignored, ElementsAre("3"));

  format.set_text_column("2");  // the label is then the first
  EXPECT_THAT(Parse(format, "5,good\n1,bad\n").rows,
              ElementsAre(Pair("good", "5"), Pair("bad", "1")));
  format.set_label_column("3");
  EXPECT_THAT(Parse(format, "7,good,1\n").rows, ElementsAre(Pair("good", "1")));
  format.clear_text_column();
  format.clear_label_column();
  const Parsed texts = Parse(format, "only\ntexts\n");
  EXPECT_FALSE(texts.labelled);
  EXPECT_EQ(texts.row_count, 2);
}

TEST(RowParser, NamesColumnsAndRowsOfAFileWithoutHeader) {
  v1::DatasetFormat format = Format(kTsv);
  format.set_no_header(true);
  const Parsed ragged = Parse(format, "a\t1\nb\nc\t2\n");
  EXPECT_THAT(std::string(ragged.status.message()),
              AllOf(HasSubstr("1 of 3 rows"), HasSubstr("row 2 (line 2): has 1 fields, the first "
                                                        "row has 2")));
  format.set_label_column("3");
  const Parsed missing = Parse(format, "a\t1\n");
  EXPECT_EQ(ReasonOf(missing.status), v1::COLUMN_MISSING);
  EXPECT_THAT(std::string(missing.status.message()),
              HasSubstr("column \"3\" is not in the file; the columns are \"1\", \"2\""));
  EXPECT_EQ(ReasonOf(Parse(format, "").status), v1::DATASET_EMPTY);
  for (const char* column : {"text", "0", "01", "-1", "1.0", "999999"}) {
    format.set_text_column(column);
    EXPECT_EQ(ReasonOf(Parse(format, "a\t1\n").status), v1::FIELD_INVALID) << column;
  }
  format = Format(kJsonl);
  format.set_no_header(true);
  EXPECT_EQ(ReasonOf(Parse(format, "{}\n").status), v1::FIELD_INVALID);
}

TEST(RowParser, MapsValuesToLabels) {
  v1::DatasetFormat format = Format(kCsv);
  for (const auto& [value, label] :
       std::vector<std::pair<const char*, const char*>>{{"1", "negative"},
                                                        {"2", "negative"},
                                                        {"3", "neutral"},
                                                        {"5", "positive"},
                                                        {"", "none"}}) {
    (*format.mutable_value_mapping())[value] = label;
  }
  const Parsed good = Parse(format, "text,label\na,1\nb,5\nc,\nd,2\n");
  ASSERT_TRUE(good.status.ok()) << good.status;
  EXPECT_THAT(good.rows, ElementsAre(Pair("a", "negative"), Pair("b", "positive"),
                                     Pair("c", "none"), Pair("d", "negative")));
  const Parsed bad = Parse(format, "text,label\na,1\nb,4\nc, 1\n");
  EXPECT_EQ(ReasonOf(bad.status), v1::ROWS_INVALID);
  EXPECT_THAT(
      std::string(bad.status.message()),
      AllOf(HasSubstr("2 of 3 rows"),
            HasSubstr("row 2 (line 3): column \"label\" has no label in value_mapping: \"4\""),
            HasSubstr("\" 1\"")));
  EXPECT_EQ(ReasonOf(Parse(format, "text\na\n").status), v1::COLUMN_MISSING);
  v1::DatasetFormat json = format;
  json.set_kind(kJsonl);
  EXPECT_THAT(Parse(json, "{\"text\":\"a\",\"label\":3}\n").rows,
              ElementsAre(Pair("a", "neutral")));
}

TEST(RowParser, RefusesAMappingThatMakesNoLabels) {
  v1::DatasetFormat format = Format(kCsv);
  (*format.mutable_value_mapping())["1"] = "";
  EXPECT_EQ(ReasonOf(Parse(format, "text,label\na,1\n").status), v1::FIELD_INVALID);
  (*format.mutable_value_mapping())["1"] = std::string(257, 'x');
  EXPECT_EQ(ReasonOf(Parse(format, "text,label\na,1\n").status), v1::FIELD_INVALID);
  (*format.mutable_value_mapping())["1"] = "one";
  format.set_texts_only(true);
  EXPECT_EQ(ReasonOf(Parse(format, "text,label\na,1\n").status), v1::FIELD_INVALID);
  format.set_texts_only(false);
  for (int i = 0; i < 1000; ++i) (*format.mutable_value_mapping())[absl::StrCat("v", i)] = "x";
  EXPECT_EQ(ReasonOf(Parse(format, "text,label\na,1\n").status), v1::FIELD_INVALID);
}

TEST(RowParser, KeepsTheFirstThousandBadRows) {
  std::string bytes = "text,label\n";
  for (int i = 0; i < 1500; ++i) bytes += "bad\n";
  RowParser parser(Format(kCsv), [](v1::Example) { return absl::OkStatus(); });
  ASSERT_TRUE(parser.Feed(bytes).ok());
  EXPECT_EQ(ReasonOf(parser.Finish()), v1::ROWS_INVALID);
  EXPECT_EQ(parser.bad_row_count(), 1500);
  ASSERT_EQ(parser.bad_rows().size(), 1000);
  EXPECT_EQ(parser.bad_rows()[999].row(), 1000);
  EXPECT_EQ(parser.bad_rows()[999].line(), 1001);
  EXPECT_EQ(parser.bad_rows()[999].value(), "\"bad\"");
}

TEST(RowParser, RefusesALongLineAndGoesOnAfterIt) {
  std::string bytes = "text,label\n\"never closed ";
  bytes.append(kMaxLineBytes, 'x');
  bytes += "\nnext\nlast,1\n";
  for (const size_t chunk : {bytes.size(), size_t{4096}, size_t{1} << 20}) {
    const Parsed parsed = ParseInChunks(Format(kCsv), bytes, chunk);
    EXPECT_EQ(ReasonOf(parsed.status), v1::ROWS_INVALID);
    EXPECT_THAT(std::string(parsed.status.message()),
                AllOf(HasSubstr("2 of 3 rows"), HasSubstr("row 1 (line 2): is longer than 4 MiB"),
                      HasSubstr("row 2 (line 3): has 1 fields")));
    EXPECT_THAT(parsed.rows, ElementsAre(Pair("last", "1")));
  }
}

TEST(RowParser, TakesATextOfOneMebibyteAndRefusesALongerOne) {
  const std::string text(kMaxTextBytes, 'x');
  EXPECT_TRUE(ParseInChunks(Format(kCsv), absl::StrCat("text\n", text, "\n"), 1 << 16).status.ok());
  const Parsed parsed = ParseInChunks(Format(kCsv), absl::StrCat("text\n", text, "y\n"), 1 << 16);
  EXPECT_THAT(std::string(parsed.status.message()), HasSubstr("column \"text\" has 1048577 bytes"));
}

// Bytes of memory that this process had at most since it was last asked to forget.
int64_t PeakBytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    int64_t kilobytes = 0;
    if (word == "VmHWM:" && status >> kilobytes) return kilobytes * 1024;
  }
  return 0;
}

TEST(RowParser, TakesNoMoreMemoryForManyRowsOrForALongLine) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "AddressSanitizer keeps what was freed";
#endif
  std::string rows;
  for (int i = 0; i < 20'000; ++i) absl::StrAppend(&rows, "a text of row ", i, ",1\n");
  const std::string line(1 << 20, 'x');
  std::ofstream("/proc/self/clear_refs") << 5;
  const int64_t before = PeakBytes();
  RowParser parser(Format(kCsv), [](v1::Example) { return absl::OkStatus(); });
  ASSERT_TRUE(parser.Feed("text,label\n").ok());
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(parser.Feed(rows).ok());
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(parser.Feed(line).ok());  // 100 MiB
  EXPECT_THAT(std::string(parser.Finish().message()), HasSubstr("is longer than 4 MiB"));
  EXPECT_EQ(parser.row_count(), 2'000'000);
  EXPECT_LT(PeakBytes() - before, int64_t{64} << 20);
}

TEST(RowParser, AnswersAnErrorOfItsSinkAtOnce) {
  RowParser parser(Format(kTsv), [](v1::Example) { return absl::ResourceExhaustedError("full"); });
  EXPECT_TRUE(parser.Feed("text\tlabel\na\t").ok());
  EXPECT_EQ(parser.Feed("b\nc\td\n").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(parser.Finish().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace tasuki
