#include "server/datasets/datasets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <limits>
#include <thread>

#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "model/files/sha256.h"
#include "server/metrics/metrics.h"
#include "server/store/dataset_table.h"

namespace tasuki {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr char kTsv[] = "sentence\tlabel\tid\n良い\tpos\t1\nだめ\tneg\t2\n最高\tpos\t3\n";

v1::UploadDatasetHeader HeaderOf(v1::DatasetFormat::Kind kind, const std::string& text = "text") {
  v1::UploadDatasetHeader header;
  header.set_display_name("reviews");
  header.mutable_format()->set_kind(kind);
  header.mutable_format()->set_text_column(text);
  return header;
}

class DatasetsTest : public testing::Test {
 protected:
  DatasetsTest()
      : root_(absl::StrCat(testing::TempDir(), "datasets_test.", getpid())), directory_(root_) {
    std::filesystem::remove_all(root_);
    std::filesystem::create_directories(root_);
    store_ = *Store::Open(directory_.database(), metrics_);
    datasets_ = std::make_unique<Datasets>(*store_, directory_);
  }
  ~DatasetsTest() override { std::filesystem::remove_all(root_); }

  static absl::StatusOr<v1::Dataset> UploadTo(Datasets& datasets,
                                              const v1::UploadDatasetHeader& header,
                                              absl::string_view bytes, size_t chunk = 7) {
    auto upload = datasets.Begin(header);
    if (!upload.ok()) return upload.status();
    for (size_t at = 0; at < bytes.size(); at += chunk) {
      if (absl::Status status = (*upload)->Append(bytes.substr(at, chunk)); !status.ok()) {
        return status;
      }
    }
    return (*upload)->Finish();
  }
  absl::StatusOr<v1::Dataset> Upload(const v1::UploadDatasetHeader& header, absl::string_view bytes,
                                     size_t chunk = 7) {
    return UploadTo(*datasets_, header, bytes, chunk);
  }

  absl::StatusOr<v1::CheckDatasetResponse> Check(const v1::UploadDatasetHeader& header,
                                                 absl::string_view bytes) {
    auto check = datasets_->BeginCheck(header);
    if (!check.ok()) return check.status();
    if (absl::Status status = (*check)->Append(bytes); !status.ok()) return status;
    return (*check)->Finish();
  }
  absl::StatusOr<v1::InspectDatasetResponse> Inspect(const std::string& name, int row_count) {
    v1::InspectDatasetRequest request;
    request.set_name(name);
    request.set_row_count(row_count);
    return datasets_->Inspect(request);
  }

  std::vector<std::string> FilesIn(const std::string& folder) const {
    const auto names = ListDirectory(absl::StrCat(root_, "/", folder));
    return names.ok() ? *names : std::vector<std::string>();
  }
  void ExpectNothingIsThere() {
    EXPECT_THAT(FilesIn("aside"), IsEmpty());
    EXPECT_THAT(FilesIn("datasets"), IsEmpty());
    EXPECT_THAT(store_->datasets().List(0, "")->rows, IsEmpty());
  }

  const std::string root_;
  const DataDirectory directory_;
  Metrics metrics_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Datasets> datasets_;
};

TEST_F(DatasetsTest, StoreWhatWasUploadedInCanonicalForm) {
  const auto dataset = Upload(HeaderOf(v1::DatasetFormat::TSV, "sentence"), kTsv);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  const std::string canonical =
      "{\"text\":\"良い\",\"label\":\"pos\"}\n"
      "{\"text\":\"だめ\",\"label\":\"neg\"}\n"
      "{\"text\":\"最高\",\"label\":\"pos\"}\n";
  EXPECT_EQ(dataset->sha256(), Sha256Of(canonical));
  EXPECT_EQ(dataset->name(), absl::StrCat("datasets/d-", dataset->sha256().substr(0, 16)));
  EXPECT_EQ(dataset->display_name(), "reviews");
  EXPECT_EQ(dataset->row_count(), 3);
  EXPECT_EQ(dataset->size_bytes(), canonical.size());
  EXPECT_EQ(dataset->max_text_bytes(), 6);
  EXPECT_TRUE(dataset->labelled());
  EXPECT_TRUE(dataset->has_create_time());
  EXPECT_THAT(dataset->ignored_columns(), ElementsAre("id"));
  ASSERT_THAT(dataset->label_counts(), SizeIs(2));
  EXPECT_EQ(dataset->label_counts(0).value(), "pos");
  EXPECT_EQ(dataset->label_counts(0).row_count(), 2);
  EXPECT_EQ(dataset->label_counts(1).value(), "neg");
  EXPECT_EQ(*ReadFile(directory_.dataset(dataset->name())), canonical);
  EXPECT_EQ(store_->datasets().Get(dataset->name())->sha256(), dataset->sha256());
  EXPECT_THAT(FilesIn("aside"), IsEmpty());
}

TEST_F(DatasetsTest, AnswerTheSameDatasetForTheSameRowsInAnyFormat) {
  const auto first = Upload(HeaderOf(v1::DatasetFormat::TSV, "sentence"), kTsv);
  v1::UploadDatasetHeader header = HeaderOf(v1::DatasetFormat::JSONL);
  header.set_display_name("other name");
  const auto second = Upload(header,
                             "{\"label\":\"pos\",\"text\":\"良い\"}\r\n"
                             "{\"label\":\"neg\",\"text\":\"だめ\"}\n"
                             "{\"text\":\"\\u6700高\",\"label\":\"pos\"}");
  ASSERT_TRUE(first.ok() && second.ok()) << second.status();
  EXPECT_EQ(second->name(), first->name());
  EXPECT_EQ(second->display_name(), "reviews");
  EXPECT_THAT(store_->datasets().List(0, "")->rows, SizeIs(1));
  EXPECT_THAT(FilesIn("datasets"), SizeIs(1));
  EXPECT_THAT(FilesIn("aside"), IsEmpty());
}

TEST_F(DatasetsTest, PutBackAFileThatWasLost) {
  const auto first = Upload(HeaderOf(v1::DatasetFormat::TSV, "sentence"), kTsv);
  std::filesystem::remove(directory_.dataset(first->name()));
  const auto lost = Inspect(first->name(), 1);
  EXPECT_EQ(lost.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ReasonOf(lost.status()), v1::FILE_CHANGED);
  ASSERT_TRUE(Upload(HeaderOf(v1::DatasetFormat::TSV, "sentence"), kTsv).ok());
  EXPECT_TRUE(Inspect(first->name(), 1).ok());
}

TEST_F(DatasetsTest, KeepOneOfManyEqualUploadsAtOnce) {
  std::vector<std::thread> threads;
  std::vector<absl::Status> statuses(8);
  for (auto& status : statuses) {
    threads.emplace_back(
        [&] { status = Upload(HeaderOf(v1::DatasetFormat::TSV, "sentence"), kTsv).status(); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
  EXPECT_THAT(store_->datasets().List(0, "")->rows, SizeIs(1));
  EXPECT_THAT(FilesIn("datasets"), SizeIs(1));
  EXPECT_THAT(FilesIn("aside"), IsEmpty());
}

TEST_F(DatasetsTest, CheckTheDeclaredHashOfTheBytesReceived) {
  v1::UploadDatasetHeader header = HeaderOf(v1::DatasetFormat::TSV, "sentence");
  header.set_sha256(Sha256Of("something else"));
  const auto corrupt = Upload(header, kTsv);
  EXPECT_EQ(corrupt.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ReasonOf(corrupt.status()), v1::UPLOAD_CORRUPT);
  // Also where rows look bad because bytes are missing.
  header.set_sha256(Sha256Of(kTsv));
  EXPECT_EQ(ReasonOf(Upload(header, absl::string_view(kTsv).substr(0, 30)).status()),
            v1::UPLOAD_CORRUPT);
  ExpectNothingIsThere();
  EXPECT_TRUE(Upload(header, kTsv).ok());
}

TEST_F(DatasetsTest, LeaveNothingOfAFailedUpload) {
  const v1::UploadDatasetHeader tsv = HeaderOf(v1::DatasetFormat::TSV);
  EXPECT_EQ(ReasonOf(Upload(tsv, "").status()), v1::DATASET_EMPTY);
  EXPECT_EQ(ReasonOf(Upload(tsv, "text\tlabel\n").status()), v1::DATASET_EMPTY);
  EXPECT_EQ(ReasonOf(Upload(tsv, kTsv).status()), v1::COLUMN_MISSING);
  EXPECT_EQ(ReasonOf(Upload(tsv, "\x1f\x8b\x08\x01").status()), v1::UNSUPPORTED_FORMAT);
  const auto rows = Upload(tsv, "text\tlabel\na\t1\nb\n");
  EXPECT_EQ(ReasonOf(rows.status()), v1::ROWS_INVALID);
  EXPECT_THAT(std::string(rows.status().message()), HasSubstr("row 2 (line 3)"));
  ExpectNothingIsThere();
}

TEST_F(DatasetsTest, LeaveNothingOfADroppedUpload) {
  {
    auto upload = datasets_->Begin(HeaderOf(v1::DatasetFormat::TSV, "sentence"));
    ASSERT_TRUE(upload.ok());
    ASSERT_TRUE((*upload)->Append(kTsv).ok());
    EXPECT_THAT(FilesIn("aside"), SizeIs(1));
  }
  ExpectNothingIsThere();
}

TEST_F(DatasetsTest, NameEveryFaultOfAHeader) {
  v1::UploadDatasetHeader header = HeaderOf(v1::DatasetFormat::TSV);
  std::string name;
  for (int i = 0; i < 63; ++i) name += "名";
  header.set_display_name(name);
  EXPECT_TRUE(datasets_->Begin(header).ok());
  header.set_display_name("two\nlines");
  EXPECT_THAT(std::string(datasets_->Begin(header).status().message()),
              HasSubstr("header.display_name: has control characters"));
  header.set_display_name(name + "x");
  header.set_sha256("ABC");
  const auto upload = datasets_->Begin(header);
  EXPECT_EQ(ReasonOf(upload.status()), v1::FIELD_INVALID);
  EXPECT_THAT(std::string(upload.status().message()),
              testing::AllOf(HasSubstr("64 characters"), HasSubstr("header.sha256")));
  EXPECT_EQ(ReasonOf(datasets_->Begin(HeaderOf(v1::DatasetFormat::KIND_UNSPECIFIED)).status()),
            v1::FIELD_INVALID);
  ExpectNothingIsThere();
}

TEST_F(DatasetsTest, RefuseAFileOverTheLimit) {
  Datasets limited(*store_, directory_, {.upload_bytes = 20});
  const auto dataset = UploadTo(limited, HeaderOf(v1::DatasetFormat::TSV, "sentence"), kTsv);
  EXPECT_EQ(dataset.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(dataset.status()), v1::LIMIT_EXCEEDED);
  ExpectNothingIsThere();
}

TEST_F(DatasetsTest, LeaveTheReservedSpaceFree) {
  Datasets full(*store_, directory_, {.reserved_bytes = std::numeric_limits<int64_t>::max()});
  const auto upload = full.Begin(HeaderOf(v1::DatasetFormat::TSV));
  EXPECT_EQ(upload.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(upload.status()), v1::DISK_FULL);
  ExpectNothingIsThere();
}

TEST_F(DatasetsTest, RefuseALabelColumnOfTooManyValues) {
  std::string bytes = "text,label\n";
  for (int i = 0; i <= 10'000; ++i) absl::StrAppend(&bytes, "x,label", i, "\n");
  const auto dataset = Upload(HeaderOf(v1::DatasetFormat::CSV), bytes, 1 << 16);
  EXPECT_EQ(ReasonOf(dataset.status()), v1::LIMIT_EXCEEDED);
  EXPECT_THAT(std::string(dataset.status().message()), HasSubstr("label_column"));
}

TEST_F(DatasetsTest, ListTheHundredMostFrequentLabels) {
  std::string bytes = "text,label\nx,z\nx,z\n";
  for (int i = 0; i < 150; ++i) absl::StrAppend(&bytes, "x,label", 1000 + i, "\n");
  const auto dataset = Upload(HeaderOf(v1::DatasetFormat::CSV), bytes);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  ASSERT_THAT(dataset->label_counts(), SizeIs(100));
  EXPECT_EQ(dataset->label_counts(0).value(), "z");
  EXPECT_EQ(dataset->label_counts(1).value(), "label1000");
  EXPECT_EQ(dataset->label_counts(99).value(), "label1098");
}

TEST_F(DatasetsTest, InspectTheFirstRows) {
  std::string bytes = "text\n";
  for (int i = 0; i < 200; ++i) absl::StrAppend(&bytes, "text ", i, "\n");
  const auto dataset = Upload(HeaderOf(v1::DatasetFormat::TSV), bytes);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_FALSE(dataset->labelled());
  const auto two = Inspect(dataset->name(), 2);
  ASSERT_TRUE(two.ok()) << two.status();
  EXPECT_EQ(two->dataset().name(), dataset->name());
  ASSERT_THAT(two->examples(), SizeIs(2));
  EXPECT_EQ(two->examples(1).text(), "text 1");
  EXPECT_THAT(Inspect(dataset->name(), 0)->examples(), SizeIs(10));
  EXPECT_THAT(Inspect(dataset->name(), 1000)->examples(), SizeIs(100));
  EXPECT_EQ(ReasonOf(Inspect(dataset->name(), -1).status()), v1::FIELD_INVALID);
  EXPECT_EQ(Inspect("datasets/d-0", 1).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(DatasetsTest, InspectNoMoreThanAMessageCanHold) {
  const std::string text(1'000'000, 'x');
  std::string bytes = "text\n";
  for (int i = 0; i < 5; ++i) absl::StrAppend(&bytes, text, "\n");
  const auto dataset = Upload(HeaderOf(v1::DatasetFormat::TSV), bytes, 1 << 20);
  EXPECT_THAT(Inspect(dataset->name(), 5)->examples(), SizeIs(3));
}

TEST_F(DatasetsTest, CheckWithoutStoringAnything) {
  const auto good = Check(HeaderOf(v1::DatasetFormat::TSV, "sentence"), kTsv);
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_EQ(good->bad_row_count(), 0);
  EXPECT_EQ(good->dataset().row_count(), 3);
  ExpectNothingIsThere();
  const auto uploaded = Upload(HeaderOf(v1::DatasetFormat::TSV, "sentence"), kTsv);
  EXPECT_EQ(good->dataset().name(), uploaded->name());
  EXPECT_EQ(good->dataset().sha256(), uploaded->sha256());
}

TEST_F(DatasetsTest, TellEveryBadRowOfACheckedFile) {
  std::string bytes = "text,label\n";
  for (int i = 0; i < 1200; ++i) absl::StrAppend(&bytes, "good,1\nbad,\n");
  const auto checked = Check(HeaderOf(v1::DatasetFormat::CSV), bytes);
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_EQ(checked->bad_row_count(), 1200);
  ASSERT_THAT(checked->bad_rows(), SizeIs(1000));
  EXPECT_EQ(checked->bad_rows(999).row(), 2000);
  EXPECT_EQ(checked->bad_rows(0).column(), "\"label\"");
  EXPECT_EQ(checked->bad_rows(0).cause(), "is empty");
  EXPECT_EQ(checked->dataset().row_count(), 1200);
  EXPECT_EQ(checked->dataset().name(), "");
  ExpectNothingIsThere();
}

TEST_F(DatasetsTest, CheckAnswersTheErrorsOfAnUpload) {
  v1::UploadDatasetHeader header = HeaderOf(v1::DatasetFormat::CSV);
  EXPECT_EQ(ReasonOf(Check(header, "a,b\n1,2\n").status()), v1::COLUMN_MISSING);
  EXPECT_EQ(ReasonOf(Check(header, "").status()), v1::DATASET_EMPTY);
  EXPECT_EQ(ReasonOf(Check(header, "\x1f\x8b----").status()), v1::UNSUPPORTED_FORMAT);
  EXPECT_EQ(ReasonOf(Check(header, "text,\"label\nx,1\n").status()), v1::ROWS_INVALID);
  header.set_sha256(std::string(64, '0'));
  EXPECT_EQ(ReasonOf(Check(header, "text\na\n").status()), v1::UPLOAD_CORRUPT);
  header.mutable_format()->clear_kind();
  EXPECT_EQ(ReasonOf(Check(header, "text\na\n").status()), v1::FIELD_INVALID);
}

TEST_F(DatasetsTest, ReportOnSeveralDatasets) {
  const auto train = Upload(HeaderOf(v1::DatasetFormat::TSV, "sentence"), kTsv);
  const auto test = Upload(HeaderOf(v1::DatasetFormat::CSV), "text,label\n良い,neg\n最低,neg\n");
  v1::InspectDatasetRequest request;
  request.set_name(train->name());
  request.set_report(true);
  request.add_other_datasets(test->name());
  const auto answer = datasets_->Inspect(request);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_THAT(answer->examples(), SizeIs(3));
  ASSERT_THAT(answer->reports(), SizeIs(2));
  EXPECT_EQ(answer->reports(0).dataset().label_counts(0).value(), "pos");
  EXPECT_EQ(answer->reports(1).dataset().name(), test->name());
  ASSERT_THAT(answer->overlaps(), SizeIs(1));
  EXPECT_EQ(answer->overlaps(0).row_count(), 1);
  EXPECT_EQ(answer->overlaps(0).conflicting_row_count(), 1);
}

TEST_F(DatasetsTest, NameEveryFaultOfAReport) {
  const auto dataset = Upload(HeaderOf(v1::DatasetFormat::TSV, "sentence"), kTsv);
  v1::InspectDatasetRequest request;
  request.set_name(dataset->name());
  request.add_other_datasets(dataset->name());
  request.set_max_input_tokens(3);
  const absl::Status status = datasets_->Inspect(request).status();
  EXPECT_EQ(ReasonOf(status), v1::FIELD_INVALID);
  for (const char* field : {"report: ", "other_datasets: ", "max_input_tokens: "}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(field));
  }
  request.clear_other_datasets();
  request.clear_max_input_tokens();
  request.set_report(true);
  request.set_model_version("models/nothing");
  EXPECT_EQ(datasets_->Inspect(request).status().code(), absl::StatusCode::kNotFound);
  request.clear_model_version();
  std::filesystem::remove(directory_.dataset(dataset->name()));
  EXPECT_EQ(ReasonOf(datasets_->Inspect(request).status()), v1::FILE_CHANGED);
}

TEST_F(DatasetsTest, DeleteRowAndFile) {
  const auto dataset = Upload(HeaderOf(v1::DatasetFormat::TSV, "sentence"), kTsv);
  ASSERT_TRUE(datasets_->Delete(dataset->name()).ok());
  ExpectNothingIsThere();
  EXPECT_EQ(datasets_->Delete(dataset->name()).code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Upload(HeaderOf(v1::DatasetFormat::TSV, "sentence"), kTsv).ok());
}

TEST_F(DatasetsTest, NeverHaveARowWithoutItsFile) {
  // Uploads and deletions of the same rows at once.
  std::vector<std::thread> threads;
  std::string name = Upload(HeaderOf(v1::DatasetFormat::TSV, "sentence"), kTsv)->name();
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) {
        EXPECT_TRUE(Upload(HeaderOf(v1::DatasetFormat::TSV, "sentence"), kTsv, 999).ok());
      }
    });
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) datasets_->Delete(name).IgnoreError();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(store_->datasets().Get(name).ok(), std::filesystem::exists(directory_.dataset(name)));
  EXPECT_THAT(FilesIn("aside"), IsEmpty());
}

}  // namespace
}  // namespace tasuki
