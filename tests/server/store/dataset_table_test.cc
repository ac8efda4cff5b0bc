#include "server/store/dataset_table.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/errors/errors.h"
#include "tests/server/store/store_fixture.h"

namespace tasuki {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using DatasetTableTest = StoreFixture;

TEST_F(DatasetTableTest, InsertOfTheSameNameAnswersTheOneThatIsThere) {
  AddDataset("datasets/d-1");
  v1::Dataset again;
  again.set_name("datasets/d-1");
  again.set_display_name("another");
  EXPECT_EQ(store().datasets().Insert(again)->display_name(), "datasets/d-1");
}

TEST_F(DatasetTableTest, KeepsEveryFieldAsItWas) {
  v1::Dataset dataset;
  dataset.set_name("datasets/d-1");
  dataset.set_display_name("レビュー \"quoted\" \n' ; --");
  dataset.set_row_count(1LL << 53);
  dataset.add_label_counts()->set_value("négatif");
  dataset.mutable_create_time()->set_seconds(12);
  ASSERT_TRUE(store().datasets().Insert(dataset).ok());
  EXPECT_EQ(store().datasets().Get("datasets/d-1")->SerializeAsString(),
            dataset.SerializeAsString());
}

TEST_F(DatasetTableTest, NamesWhatIsNotThere) {
  for (const absl::Status& status :
       {store().datasets().Get("datasets/x").status(), store().datasets().Delete("datasets/x")}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(ReasonOf(status), v1::RESOURCE_NOT_FOUND);
    EXPECT_THAT(status.message(), HasSubstr("datasets/x"));
  }
}

TEST_F(DatasetTableTest, PagesAreStableWhileRowsComeAndGo) {
  for (int i = 1; i <= 5; ++i) AddDataset("datasets/" + std::to_string(i));
  auto page = store().datasets().List(2, "");
  EXPECT_THAT(NamesOf(page->rows), ElementsAre("datasets/5", "datasets/4"));
  AddDataset("datasets/6");
  ASSERT_TRUE(store().datasets().Delete("datasets/4").ok());
  page = store().datasets().List(2, page->next_page_token);
  EXPECT_THAT(NamesOf(page->rows), ElementsAre("datasets/3", "datasets/2"));
  page = store().datasets().List(2, page->next_page_token);
  EXPECT_THAT(NamesOf(page->rows), ElementsAre("datasets/1"));
  EXPECT_EQ(page->next_page_token, "");
}

TEST_F(DatasetTableTest, AFullLastPageHasNoNextOne) {
  AddDataset("datasets/1");
  AddDataset("datasets/2");
  EXPECT_EQ(store().datasets().List(2, "")->next_page_token, "");
}

TEST_F(DatasetTableTest, PageSizesHaveADefaultAndALimit) {
  Close();
  Execute(
      "INSERT INTO datasets WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE "
      "i < 1010) SELECT 'datasets/' || i, i, '{}' FROM n");
  Reopen();
  EXPECT_EQ(store().datasets().List(0, "")->rows.size(), 50u);
  EXPECT_EQ(store().datasets().List(1'000'000, "")->rows.size(), 1000u);
  const absl::Status status = store().datasets().List(-1, "").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("page_size"));
}

TEST_F(DatasetTableTest, RefusesTokensThatItDidNotMake) {
  for (int i = 0; i < 3; ++i) {
    AddDataset("datasets/" + std::to_string(i));
    AddJob("trainingJobs/" + std::to_string(i));
  }
  const std::string good = store().datasets().List(1, "")->next_page_token;
  ASSERT_TRUE(store().datasets().List(1, good).ok());
  std::vector<std::string> bad = {"x",
                                  "!",
                                  "AAAA",
                                  std::string(5000, 'A'),
                                  good + "A",
                                  good + "=",
                                  store().jobs().List({}, 1, "")->next_page_token};
  for (size_t i = 0; i < good.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      bad.push_back(good);
      bad.back()[i] = static_cast<char>(bad.back()[i] ^ (1 << bit));
    }
  }
  for (const std::string& token : bad) {
    const absl::Status status = store().datasets().List(1, token).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << token;
    EXPECT_EQ(ReasonOf(status), v1::PAGE_TOKEN_INVALID) << token;
  }
}

TEST_F(DatasetTableTest, IsNotDeletedUnderAJobThatHasNotEnded) {
  AddDataset("datasets/d-1");
  AddJob("trainingJobs/a", "datasets/d-1");
  const absl::Status status = store().datasets().Delete("datasets/d-1");
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(status), v1::RESOURCE_IN_USE);
  EXPECT_THAT(status.message(), HasSubstr("trainingJobs/a"));
  EXPECT_TRUE(store().datasets().Get("datasets/d-1").ok());

  ASSERT_TRUE(SetState("trainingJobs/a", v1::TrainingJob::QUEUED, v1::TrainingJob::CANCELLED).ok());
  EXPECT_TRUE(store().datasets().Delete("datasets/d-1").ok());
  EXPECT_FALSE(store().datasets().Get("datasets/d-1").ok());
}

TEST_F(DatasetTableTest, EveryWayOfUsingADatasetKeepsIt) {
  const std::vector<std::string> names = {"datasets/train", "datasets/valid", "datasets/test",
                                          "datasets/text"};
  for (const std::string& name : names) AddDataset(name);
  v1::TrainingJob tuning = Job("trainingJobs/a");
  v1::Task& task = *tuning.mutable_fine_tuning()->add_tasks();
  task.set_train_dataset(names[0]);
  task.set_valid_dataset(names[1]);
  task.set_test_dataset(names[2]);
  v1::TrainingJob pretraining = Job("trainingJobs/b");
  pretraining.mutable_pretraining()->add_datasets(names[3]);
  ASSERT_TRUE(Insert(tuning).ok());
  ASSERT_TRUE(Insert(pretraining).ok());
  for (const std::string& name : names) {
    EXPECT_EQ(ReasonOf(store().datasets().Delete(name)), v1::RESOURCE_IN_USE) << name;
  }
}

}  // namespace
}  // namespace tasuki
