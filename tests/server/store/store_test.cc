#include "server/store/store.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/errors/errors.h"
#include "server/metrics/metrics.h"
#include "server/store/dataset_table.h"
#include "server/store/job_table.h"
#include "server/store/model_table.h"
#include "server/store/sessions.h"
#include "tests/server/store/store_fixture.h"

namespace tasuki {
namespace {

using ::testing::HasSubstr;

using StoreTest = StoreFixture;

std::string Bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST_F(StoreTest, ReopenedStoreHasEverything) {
  AddDataset("datasets/d-1");
  AddJob("trainingJobs/a", "datasets/d-1");
  AddVersion("models/m", "key");
  Reopen();
  EXPECT_EQ(store().datasets().Get("datasets/d-1")->display_name(), "datasets/d-1");
  EXPECT_EQ(store().jobs().Get("trainingJobs/a")->fine_tuning().tasks(0).train_dataset(),
            "datasets/d-1");
  EXPECT_EQ(store().jobs().ReadEvents("trainingJobs/a", 0, 10)->size(), 1u);
  EXPECT_EQ(store().models().GetModel("models/m")->latest_version(), "models/m/versions/1");
}

TEST_F(StoreTest, ReopenedStoreCountsItsJobs) {
  AddJob("trainingJobs/a");
  AddJob("trainingJobs/b");
  Reopen();
  EXPECT_THAT(metrics().Text(), HasSubstr("tasuki_jobs{state=\"QUEUED\"} 2"));
}

// The time, not the age, of an old job that was queued a moment ago.
TEST_F(StoreTest, ReopenedStoreTellsSinceWhenTheOldestJobIsQueued) {
  v1::TrainingJob job = Job("trainingJobs/a");
  job.mutable_create_time()->set_seconds(1'000'000'000);
  const int64_t begin = absl::ToUnixSeconds(absl::Now());
  ASSERT_TRUE(Insert(job).ok());
  using State = v1::TrainingJob;
  ASSERT_TRUE(SetState(job.name(), State::QUEUED, State::PAUSED).ok());
  ASSERT_TRUE(SetState(job.name(), State::PAUSED, State::QUEUED).ok());
  Reopen();
  const std::string text = metrics().Text();
  const std::string series = "\ntasuki_job_oldest_queued_timestamp_seconds ";
  const size_t at = text.find(series);
  ASSERT_NE(at, std::string::npos);
  EXPECT_GE(std::stod(text.substr(at + series.size())), begin);
}

TEST_F(StoreTest, RefusesANewerSchemaAndLeavesTheFileAlone) {
  Close();
  Execute("UPDATE schema_version SET version = 7");
  const std::string before = Bytes(path());
  const absl::Status status = TryOpen();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("version 7"));
  EXPECT_THAT(status.message(), HasSubstr("version 2"));
  EXPECT_EQ(Bytes(path()), before);
}

TEST_F(StoreTest, TellsARowOfANewerServerFromADamagedOne) {
  AddDataset("datasets/d-1");
  const auto read = [&](const std::string& message) {
    Close();
    Execute("UPDATE datasets SET message = '" + message + "'");
    Reopen();
    return store().datasets().Get("datasets/d-1").status();
  };
  for (const char* json : {R"({"name": "datasets/d-1", "new_field": 1})", R"({"name": )"}) {
    const absl::Status status = read(json);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(ReasonOf(status), v1::FILE_CHANGED);
  }
  EXPECT_THAT(read(R"({"new_field": 1})").message(),
              ::testing::AllOf(HasSubstr("new_field"), HasSubstr("start the newer server again"),
                               ::testing::Not(HasSubstr("damaged"))));
  EXPECT_THAT(read("{").message(), HasSubstr("damaged"));
}

TEST_F(StoreTest, RefusesAFileThatIsNoDatabase) {
  Close();
  std::filesystem::resize_file(path(), 0);
  std::ofstream(path()) << std::string(10'000, 'x');
  EXPECT_EQ(TryOpen().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Bytes(path()), std::string(10'000, 'x'));
}

TEST_F(StoreTest, RefusesADatabaseOfAnotherProgram) {
  Close();
  std::filesystem::remove(path());
  Execute("CREATE TABLE cats (name TEXT)");
  const absl::Status status = TryOpen();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(status.message(), HasSubstr("another program"));
}

TEST_F(StoreTest, RefusesADatabaseWithDamagedPages) {
  for (int i = 0; i < 200; ++i) AddDataset("datasets/d-" + std::to_string(i));
  Close();
  const auto size = std::filesystem::file_size(path());
  ASSERT_GT(size, 16'384u);
  std::fstream file(path(), std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(8192);
  file << std::string(size - 8192, '\x5a');
  file.close();
  EXPECT_EQ(TryOpen().code(), absl::StatusCode::kDataLoss);
}

TEST_F(StoreTest, SaysThatItCannotOpenWithoutADirectory) {
  Metrics metrics;
  const auto store = Store::Open(path() + "/no/such/tasuki.db", metrics);
  EXPECT_EQ(store.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(store.status()), v1::STORE_UNAVAILABLE);
  EXPECT_THAT(store.status().message(), HasSubstr("/no/such/tasuki.db"));
}

TEST_F(StoreTest, OpensAPathWithSpacesAndJapanese) {
  Metrics metrics;
  const std::string directory = path() + " 一 二";
  std::filesystem::create_directory(directory);
  const auto store = Store::Open(directory + "/tasuki.db", metrics);
  EXPECT_TRUE(store.ok()) << store.status();
  EXPECT_TRUE(std::filesystem::exists(directory + "/tasuki.db"));
  std::filesystem::remove_all(directory);
}

TEST_F(StoreTest, AFailedWriteIsSaidAndLeavesTheRowsAsTheyWere) {
  AddDataset("datasets/d-1");
  Close();
  Execute(
      "CREATE TRIGGER full BEFORE INSERT ON datasets BEGIN "
      "SELECT RAISE(ABORT, 'x'); END");  // any failure inside a transaction
  Reopen();
  v1::Dataset dataset;
  dataset.set_name("datasets/d-2");
  const absl::Status status = store().datasets().Insert(dataset).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), v1::STORE_UNAVAILABLE);
  EXPECT_THAT(status.message(), ::testing::Not(HasSubstr("INSERT")));
  EXPECT_EQ(store().datasets().List(0, "")->rows.size(), 1u);
  EXPECT_THAT(metrics().Text(), HasSubstr("tasuki_store_errors_total{op=\"write_datasets\"} 1"));
}

TEST_F(StoreTest, AFullDiskHasAnErrorOfItsOwn) {
  soci::session sql(soci::sqlite3, "dbname=" + path() + ".full");
  sql << "CREATE TABLE t (x TEXT)";
  sql << "PRAGMA max_page_count = 2";
  absl::Status status;
  try {
    const std::string text(100'000, 'x');
    sql << "INSERT INTO t VALUES (:x)", soci::use(text);
  } catch (...) {
    status = StatusOfException(path());
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), v1::DISK_FULL);
}

TEST_F(StoreTest, ManyThreadsReadWhatTheyWrote) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([this, t] {
      for (int i = 0; i < 20; ++i) {
        const std::string name = "datasets/d-" + std::to_string(t) + "-" + std::to_string(i);
        AddDataset(name);
        EXPECT_TRUE(store().datasets().Get(name).ok());
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(store().datasets().List(1000, "")->rows.size(), 120u);
}

TEST_F(StoreTest, TimesItsOperations) {
  AddDataset("datasets/d-1");
  EXPECT_THAT(metrics().Text(),
              HasSubstr("tasuki_store_operation_seconds_count{op=\"write_datasets\"} 1"));
}

}  // namespace
}  // namespace tasuki
