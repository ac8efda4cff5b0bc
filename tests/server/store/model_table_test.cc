#include "server/store/model_table.h"

#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/errors/errors.h"
#include "tests/server/store/store_fixture.h"

namespace tasuki {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAreArray;

using ModelTableTest = StoreFixture;

TEST_F(ModelTableTest, AReservationIsInvisibleUntilItIsPublished) {
  const auto reserved = store().models().Reserve("models/m", "key", "digest");
  EXPECT_EQ(reserved->name, "models/m/versions/1");
  EXPECT_FALSE(reserved->published);
  EXPECT_EQ(store().models().GetVersion("models/m/versions/1").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(store().models().GetModel("models/m").status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(store().models().ListModels(0, "")->rows.empty());
}

TEST_F(ModelTableTest, AKeyHasOneVersionHoweverOftenItIsReservedAndPublished) {
  ASSERT_EQ(store().models().Reserve("models/m", "key", "digest")->name, "models/m/versions/1");
  Reopen();
  ASSERT_EQ(store().models().Reserve("models/m", "key", "digest")->name, "models/m/versions/1");
  AddVersion("models/m", "key");
  EXPECT_TRUE(store().models().Reserve("models/m", "key", "digest")->published);
  v1::ModelVersion again;
  again.set_name("models/m/versions/1");
  again.set_parameter_count(7);
  EXPECT_EQ(store().models().Publish(again, true)->parameter_count(), 0);  // the first one stays
  EXPECT_EQ(store().models().GetModel("models/m")->version_count(), 1);
}

TEST_F(ModelTableTest, RefusesAKeyWithAnotherDigest) {
  AddVersion("models/m", "key");
  const absl::Status status = store().models().Reserve("models/m", "key", "other").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ReasonOf(status), v1::REQUEST_ID_REUSED);
  EXPECT_THAT(status.message(), HasSubstr("models/m/versions/1"));
}

TEST_F(ModelTableTest, WithoutAKeyEveryReservationIsNew) {
  EXPECT_EQ(AddVersion("models/m", ""), "models/m/versions/1");
  EXPECT_EQ(AddVersion("models/m", ""), "models/m/versions/2");
}

TEST_F(ModelTableTest, NumbersAreNeverUsedTwice) {
  EXPECT_EQ(AddVersion("models/m", "1"), "models/m/versions/1");
  EXPECT_EQ(AddVersion("models/m", "2"), "models/m/versions/2");
  ASSERT_TRUE(store().models().DeleteVersion("models/m/versions/2").ok());
  ASSERT_TRUE(store().models().DeleteVersion("models/m/versions/1").ok());
  EXPECT_EQ(store().models().Reserve("models/m", "3", "")->name, "models/m/versions/3");
  ASSERT_TRUE(store().models().Release("models/m/versions/3").ok());
  Reopen();
  EXPECT_EQ(AddVersion("models/m", "3"), "models/m/versions/4");
  EXPECT_EQ(AddVersion("models/n", "4"), "models/n/versions/1");
}

TEST_F(ModelTableTest, ForgetsReservationsThatNobodyComesBackFor) {
  for (const char* job : {"trainingJobs/queued", "trainingJobs/ended"}) AddJob(job);
  ASSERT_TRUE(
      SetState("trainingJobs/ended", v1::TrainingJob::QUEUED, v1::TrainingJob::CANCELLED).ok());
  EXPECT_EQ(AddVersion("models/m", "imports/published"), "models/m/versions/1");
  for (const char* key :
       {"imports/a", "", "trainingJobs/queued", "trainingJobs/ended", "trainingJobs/deleted"}) {
    ASSERT_TRUE(store().models().Reserve("models/m", key, "").ok());
  }
  const auto forgotten = [&](int number) {
    return *store().models().IsForgotten("models/m/versions/" + std::to_string(number));
  };
  for (int number = 0; number <= 7; ++number) EXPECT_FALSE(forgotten(number)) << number;
  ASSERT_TRUE(store().models().ReleaseAbandoned().ok());
  std::string gone;
  for (int number = 0; number <= 9; ++number) gone += forgotten(number) ? '1' : '0';
  EXPECT_EQ(gone, "0011011000")
      << "number 1 is published, 4 is the queued job's, 7 was never given";
  EXPECT_EQ(store().models().Reserve("models/m", "trainingJobs/queued", "")->name,
            "models/m/versions/4");
  EXPECT_FALSE(*store().models().IsForgotten("models/m"));
  EXPECT_FALSE(*store().models().IsForgotten("models/m/versions/02"));
  EXPECT_FALSE(*store().models().IsForgotten("models/unknown/versions/1"));
}

TEST_F(ModelTableTest, AJobDoesNotGetTheVersionOfADeletedOneOfItsName) {
  for (const bool published : {true, false}) {
    AddJob("trainingJobs/j");
    const auto first = store().models().Reserve("models/m", "trainingJobs/j", "digest");
    ASSERT_TRUE(first.ok()) << first.status();
    if (published) AddVersion("models/m", "trainingJobs/j");
    ASSERT_TRUE(
        SetState("trainingJobs/j", v1::TrainingJob::QUEUED, v1::TrainingJob::CANCELLED).ok());
    ASSERT_TRUE(store().jobs().Delete("trainingJobs/j").ok());
    EXPECT_EQ(store().models().GetVersion(first->name).ok(), published);
    EXPECT_EQ(*store().models().IsForgotten(first->name), !published);

    const auto second = store().models().Reserve("models/n", "trainingJobs/j", "digest");
    EXPECT_THAT(second->name, HasSubstr("models/n/versions/"));
    EXPECT_FALSE(second->published);
    ASSERT_TRUE(store().models().Release(second->name).ok());
  }
}

TEST_F(ModelTableTest, ThreadsThatReserveAtOnceGetNumbersOfTheirOwn) {
  std::vector<std::string> names(4);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < names.size(); ++i) {
    threads.emplace_back([&, i] { names[i] = AddVersion("models/m", std::to_string(i)); });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_THAT(names, UnorderedElementsAreArray({"models/m/versions/1", "models/m/versions/2",
                                                "models/m/versions/3", "models/m/versions/4"}));
}

TEST_F(ModelTableTest, ReleaseLeavesAPublishedVersion) {
  AddVersion("models/m", "key");
  EXPECT_TRUE(store().models().Release("models/m/versions/1").ok());
  EXPECT_TRUE(store().models().GetVersion("models/m/versions/1").ok());
}

TEST_F(ModelTableTest, PublishNeedsAReservation) {
  v1::ModelVersion version;
  version.set_name("models/m/versions/1");
  EXPECT_EQ(store().models().Publish(version, false).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ModelTableTest, AModelsNameStandsForItsNewestVersion) {
  for (int i = 1; i <= 11; ++i) AddVersion("models/m", std::to_string(i));
  EXPECT_EQ(store().models().GetVersion("models/m")->name(), "models/m/versions/11");
  const auto model = store().models().GetModel("models/m");
  EXPECT_EQ(model->latest_version(), "models/m/versions/11");
  EXPECT_EQ(model->version_count(), 11);
  EXPECT_GT(model->create_time().seconds(), 0);
  ASSERT_TRUE(store().models().DeleteVersion("models/m/versions/11").ok());
  EXPECT_EQ(store().models().GetVersion("models/m")->name(), "models/m/versions/10");
}

TEST_F(ModelTableTest, KnowsAVersionInOneSpellingOnly) {
  AddVersion("models/m", "key");
  for (const char* name : {"models/m/versions/01", "models/m/versions/ 1", "models/m/versions/+1",
                           "models/m/versions/", "models/m/versions/2", "models/M/versions/1",
                           "models/x", "m", "", "models/m/versions/99999999999999999999"}) {
    EXPECT_EQ(store().models().GetVersion(name).status().code(), absl::StatusCode::kNotFound)
        << name;
  }
}

TEST_F(ModelTableTest, ListsModelsByNameAndVersionsNewestFirst) {
  for (const char* model : {"models/b", "models/a", "models/c"}) AddVersion(model, model);
  AddVersion("models/b", "again");
  auto models = store().models().ListModels(2, "");
  EXPECT_THAT(NamesOf(models->rows), ElementsAre("models/a", "models/b"));
  EXPECT_EQ(models->rows[1].version_count(), 2);
  models = store().models().ListModels(2, models->next_page_token);
  EXPECT_THAT(NamesOf(models->rows), ElementsAre("models/c"));

  auto versions = store().models().ListVersions("models/b", 1, "");
  EXPECT_THAT(NamesOf(versions->rows), ElementsAre("models/b/versions/2"));
  EXPECT_EQ(
      ReasonOf(store().models().ListVersions("models/a", 1, versions->next_page_token).status()),
      v1::PAGE_TOKEN_INVALID);
  versions = store().models().ListVersions("models/b", 1, versions->next_page_token);
  EXPECT_THAT(NamesOf(versions->rows), ElementsAre("models/b/versions/1"));
  EXPECT_EQ(versions->next_page_token, "");
  EXPECT_EQ(store().models().ListVersions("models/x", 1, "").status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(ModelTableTest, RemembersWhatIsToBeLoaded) {
  AddVersion("models/a", "1", true);
  AddVersion("models/b", "2", false);
  ASSERT_TRUE(store().models().SetLoad("models/b/versions/1", true).ok());
  Reopen();
  EXPECT_THAT(NamesOf(*store().models().ToLoad()),
              ElementsAre("models/a/versions/1", "models/b/versions/1"));
  ASSERT_TRUE(store().models().SetLoad("models/a/versions/1", false).ok());
  EXPECT_THAT(NamesOf(*store().models().ToLoad()), ElementsAre("models/b/versions/1"));
  EXPECT_EQ(store().models().SetLoad("models/a/versions/9", true).code(),
            absl::StatusCode::kNotFound);
}

TEST_F(ModelTableTest, AVersionInUseIsNotDeleted) {
  AddVersion("models/base", "1", true);
  v1::TrainingJob job = Job("trainingJobs/a");
  job.mutable_fine_tuning()->set_base_model_version("models/base/versions/1");
  ASSERT_TRUE(Insert(job).ok());

  absl::Status status = store().models().DeleteVersion("models/base/versions/1");
  EXPECT_EQ(ReasonOf(status), v1::RESOURCE_IN_USE);
  EXPECT_THAT(status.message(), HasSubstr("unload"));
  ASSERT_TRUE(store().models().SetLoad("models/base/versions/1", false).ok());

  status = store().models().DeleteVersion("models/base/versions/1");
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(status), v1::RESOURCE_IN_USE);
  EXPECT_THAT(status.message(), HasSubstr("trainingJobs/a"));

  ASSERT_TRUE(SetState("trainingJobs/a", v1::TrainingJob::QUEUED, v1::TrainingJob::CANCELLED).ok());
  EXPECT_TRUE(store().models().DeleteVersion("models/base/versions/1").ok());
  EXPECT_EQ(store().models().DeleteVersion("models/base/versions/1").code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace tasuki
