#include "model/text/dataset_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "model/text/examples.h"

namespace tasuki {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// One token a byte; '?' is unknown.
class ByteTokenizer : public Tokenizer {
 public:
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text) const override {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(c == '?' ? 2 : 3 + static_cast<uint8_t>(c));
    return ids;
  }
  std::string Decode(const std::vector<int32_t>&) const override { return ""; }
  int32_t size() const override { return 300; }
  int32_t pad_id() const override { return 0; }
  int32_t eos_id() const override { return 1; }
  int32_t unk_id() const override { return 2; }
  int32_t sentinel_id(int) const override { return 299; }
};

class DatasetReportTest : public testing::Test {
 protected:
  using Rows = std::vector<std::pair<std::string, std::string>>;

  ~DatasetReportTest() override {
    for (const ReportedDataset& dataset : datasets_) std::filesystem::remove(dataset.path);
  }

  void Add(const std::string& name, const Rows& rows) {
    ReportedDataset& dataset = datasets_.emplace_back();
    dataset.dataset.set_name("datasets/" + name);
    dataset.path = absl::StrCat(testing::TempDir(), "dataset_report.", getpid(), ".", name);
    std::string bytes;
    for (const auto& [text, label] : rows) {
      v1::Example example;
      example.set_text(text);
      example.set_label(label);
      bytes += CanonicalLine(example, !label.empty());
    }
    ASSERT_TRUE(WriteFile(dataset.path, bytes).ok());
  }

  v1::InspectDatasetResponse Report(const ReportOptions& options = {}) {
    v1::InspectDatasetResponse response;
    const absl::Status status = ReportOn(datasets_, options, response);
    EXPECT_TRUE(status.ok()) << status;
    return response;
  }

  std::vector<ReportedDataset> datasets_;
};

TEST_F(DatasetReportTest, CountsDuplicatesConflictsAndEmptyTexts) {
  Add("train", {{"a", "x"},
                {"b", "x"},
                {"a", "x"},
                {"a", "y"},
                {" \t\u3000", "x"},
                {"", "y"},
                {"A", "x"},
                {"a ", "x"},
                {"b", "y"}});
  const auto response = Report();
  ASSERT_THAT(response.reports(), SizeIs(1));
  const v1::DatasetReport& report = response.reports(0);
  EXPECT_EQ(report.dataset().name(), "datasets/train");
  EXPECT_FALSE(report.has_token_lengths());
  EXPECT_EQ(report.duplicate_row_count(), 1);
  EXPECT_EQ(report.duplicates(0).row(), 1);
  EXPECT_EQ(report.duplicates(0).other_row(), 3);
  EXPECT_EQ(report.conflicting_row_count(), 2);
  EXPECT_EQ(report.conflicts(0).row(), 1);
  EXPECT_EQ(report.conflicts(0).other_row(), 4);
  EXPECT_EQ(report.conflicts(0).label(), "x");
  EXPECT_EQ(report.conflicts(0).other_label(), "y");
  EXPECT_EQ(report.conflicts(0).text(), "a");
  EXPECT_EQ(report.empty_text_count(), 2);
  EXPECT_THAT(report.empty_text_rows(), ElementsAre(5, 6));
  EXPECT_THAT(response.overlaps(), IsEmpty());
}

TEST_F(DatasetReportTest, FindsWhatEveryTwoDatasetsShare) {
  Add("train", {{"a", "x"}, {"b", "x"}, {"c", "y"}});
  Add("valid", {{"d", "x"}, {"b", "y"}, {"b", "x"}});
  Add("test", {{"d", "x"}, {"e", "x"}});
  const auto response = Report();
  ASSERT_THAT(response.overlaps(), SizeIs(3));
  EXPECT_EQ(response.overlaps(0).dataset(), "datasets/train");
  EXPECT_EQ(response.overlaps(0).other_dataset(), "datasets/valid");
  EXPECT_EQ(response.overlaps(0).row_count(), 2);
  EXPECT_EQ(response.overlaps(0).conflicting_row_count(), 1);
  EXPECT_EQ(response.overlaps(0).rows(0).row(), 2);
  EXPECT_EQ(response.overlaps(0).rows(0).other_row(), 2);
  EXPECT_EQ(response.overlaps(1).other_dataset(), "datasets/test");
  EXPECT_EQ(response.overlaps(1).row_count(), 0);
  EXPECT_EQ(response.overlaps(2).dataset(), "datasets/valid");
  EXPECT_EQ(response.overlaps(2).row_count(), 1);
}

TEST_F(DatasetReportTest, ListsTwentyRowsAndCountsAll) {
  Rows rows(100, {std::string(150, 'x') + "\u3042", "l"});
  Add("train", rows);
  Add("valid", rows);
  const auto response = Report();
  EXPECT_EQ(response.reports(0).duplicate_row_count(), 99);
  EXPECT_THAT(response.reports(0).duplicates(), SizeIs(20));
  EXPECT_EQ(response.reports(0).duplicates(0).text(), std::string(100, 'x'));
  EXPECT_EQ(response.overlaps(0).row_count(), 100);
  EXPECT_THAT(response.overlaps(0).rows(), SizeIs(20));
}

TEST_F(DatasetReportTest, MeasuresLengthsByNearestRank) {
  Rows rows;
  for (int i = 1; i <= 100; ++i) rows.push_back({std::string(i, i == 7 ? '?' : 'x'), "l"});
  Add("train", rows);
  const ByteTokenizer tokenizer;
  const auto response = Report({.tokenizer = &tokenizer, .prefix = "p:", .max_input_tokens = 53});
  const auto& lengths = response.reports(0).token_lengths();
  // Text i has i + 3 tokens: the prefix's two and </s>.
  EXPECT_EQ(lengths.p50(), 53);
  EXPECT_EQ(lengths.p90(), 93);
  EXPECT_EQ(lengths.p95(), 98);
  EXPECT_EQ(lengths.p99(), 102);
  EXPECT_EQ(lengths.max(), 103);
  EXPECT_EQ(lengths.total(), 5050 + 300);
  EXPECT_EQ(lengths.cut_row_count(), 50);
  EXPECT_DOUBLE_EQ(lengths.cut_share(), .5);
  EXPECT_EQ(lengths.max_input_tokens(), 53);
  EXPECT_EQ(lengths.unknown_row_count(), 1);
}

TEST_F(DatasetReportTest, OneRowHasAllPercentiles) {
  Add("train", {{"abc", ""}});
  const ByteTokenizer tokenizer;
  const auto lengths = Report({.tokenizer = &tokenizer}).reports(0).token_lengths();
  EXPECT_EQ(lengths.p50(), 4);
  EXPECT_EQ(lengths.p99(), 4);
}

TEST_F(DatasetReportTest, SaysThatAFileChanged) {
  Add("train", {{"abc", "x"}});
  ASSERT_TRUE(WriteFile(datasets_[0].path, "{}").ok());
  v1::InspectDatasetResponse response;
  EXPECT_EQ(ReasonOf(ReportOn(datasets_, {}, response)), v1::FILE_CHANGED);
}

}  // namespace
}  // namespace tasuki
