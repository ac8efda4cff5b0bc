#include "server/store/job_table.h"

#include <atomic>
#include <thread>

#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "gtest/gtest.h"
#include "model/errors/errors.h"
#include "tests/server/store/store_fixture.h"

namespace tasuki {
namespace {

using State = v1::TrainingJob;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using JobTableTest = StoreFixture;

v1::TrainingJobEvent MessageEvent(const std::string& text) {
  v1::TrainingJobEvent event;
  event.mutable_message()->set_text(text);
  return event;
}

TEST_F(JobTableTest, InsertStoresTheJobWithItsFirstEvent) {
  const auto job = Insert(Job("trainingJobs/a"));
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->last_sequence(), 1);
  EXPECT_GT(job->create_time().seconds(), 0);
  const auto events = store().jobs().ReadEvents("trainingJobs/a", 0, 10);
  ASSERT_EQ(events->size(), 1u);
  EXPECT_EQ(events->front().sequence(), 1);
  EXPECT_EQ(events->front().state_changed().state(), State::QUEUED);
  EXPECT_GT(events->front().create_time().seconds(), 0);
}

TEST_F(JobTableTest, TheSameRequestAnswersTheSameJob) {
  ASSERT_TRUE(Insert(Job("trainingJobs/a"), "request", "digest").ok());
  Reopen();
  EXPECT_EQ(Insert(Job("trainingJobs/b"), "request", "digest")->name(), "trainingJobs/a");
  EXPECT_EQ((*store().jobs().FindByRequestId("request", "digest"))->name(), "trainingJobs/a");
  EXPECT_FALSE(store().jobs().FindByRequestId("unknown", "digest")->has_value());
  EXPECT_EQ(store().jobs().List({}, 0, "")->rows.size(), 1u);
}

TEST_F(JobTableTest, RefusesARequestIdWithAnotherRequest) {
  ASSERT_TRUE(Insert(Job("trainingJobs/a"), "request", "digest").ok());
  for (const absl::Status& status : {Insert(Job("trainingJobs/b"), "request", "other").status(),
                                     store().jobs().FindByRequestId("request", "other").status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
    EXPECT_EQ(ReasonOf(status), v1::REQUEST_ID_REUSED);
    EXPECT_THAT(status.message(), HasSubstr("trainingJobs/a"));
  }
}

TEST_F(JobTableTest, ThreadsWithOneRequestMakeOneJob) {
  std::vector<std::thread> threads;
  std::atomic<int> first = 0;
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&, i] {
      const std::string name = "trainingJobs/j" + std::to_string(i);
      first += Insert(Job(name), "request", "digest")->name() == name;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(first, 1);
  EXPECT_EQ(store().jobs().List({}, 0, "")->rows.size(), 1u);
}

TEST_F(JobTableTest, RefusesANameThatIsTaken) {
  AddJob("trainingJobs/a");
  const absl::Status status = Insert(Job("trainingJobs/a")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ReasonOf(status), v1::RESOURCE_EXISTS);
}

TEST_F(JobTableTest, InsertNeedsEverythingThatTheJobNames) {
  AddDataset("datasets/d-1");
  v1::TrainingJob job = Job("trainingJobs/a");
  job.mutable_fine_tuning()->add_tasks()->set_train_dataset("datasets/d-1");
  job.mutable_fine_tuning()->set_base_model_version("models/m/versions/1");
  const absl::Status status = Insert(job, "request", "digest").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReasonOf(status), v1::RESOURCE_NOT_FOUND);
  EXPECT_THAT(status.message(), HasSubstr("models/m/versions/1"));
  // Nothing of it is left: neither the job, nor its request, nor its hold on the dataset.
  EXPECT_EQ(store().jobs().Get("trainingJobs/a").status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(store().jobs().FindByRequestId("request", "digest")->has_value());
  EXPECT_TRUE(store().datasets().Delete("datasets/d-1").ok());
}

TEST_F(JobTableTest, EventsOfManyThreadsAreNumberedWithoutGaps) {
  AddJob("trainingJobs/a");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([this] {
      for (int i = 0; i < 25; ++i) {
        const auto changed = store().jobs().Change(
            "trainingJobs/a", {.expected = {State::QUEUED}, .apply = [&](auto&, auto& events) {
                                 events.push_back(MessageEvent("one"));
                                 if (i % 2 == 0) events.push_back(MessageEvent("two"));
                               }});
        ASSERT_TRUE(changed.ok()) << changed.status();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  const auto events = store().jobs().ReadEvents("trainingJobs/a", 1, 1000);
  ASSERT_EQ(events->size(), 1 + 4 * (25 + 13));
  for (size_t i = 0; i < events->size(); ++i) EXPECT_EQ((*events)[i].sequence(), i + 1);
  EXPECT_EQ(store().jobs().Get("trainingJobs/a")->last_sequence(), events->size());
}

TEST_F(JobTableTest, ReadsEventsFromANumberOn) {
  AddJob("trainingJobs/a");
  ASSERT_TRUE(SetState("trainingJobs/a", State::QUEUED, State::PAUSED).ok());
  ASSERT_TRUE(SetState("trainingJobs/a", State::PAUSED, State::QUEUED).ok());
  const auto events = store().jobs().ReadEvents("trainingJobs/a", 2, 1);
  ASSERT_EQ(events->size(), 1u);
  EXPECT_EQ(events->front().sequence(), 2);
  EXPECT_EQ(events->front().state_changed().state(), State::PAUSED);
  EXPECT_THAT(*store().jobs().ReadEvents("trainingJobs/a", 4, 10), IsEmpty());
  EXPECT_THAT(*store().jobs().ReadEvents("trainingJobs/x", 1, 10), IsEmpty());
}

TEST_F(JobTableTest, AChangeInAnotherStateChangesNothing) {
  AddJob("trainingJobs/a");
  bool applied = false;
  const absl::Status status =
      store()
          .jobs()
          .Change("trainingJobs/a", {.expected = {State::RUNNING, State::PAUSED},
                                     .apply = [&](auto&, auto&) { applied = true; }})
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(status), v1::JOB_STATE);
  EXPECT_THAT(status.message(), HasSubstr("is QUEUED; this needs RUNNING or PAUSED"));
  EXPECT_FALSE(applied);
  EXPECT_EQ(store().jobs().Get("trainingJobs/a")->last_sequence(), 1);
}

TEST_F(JobTableTest, AChangeOfAnOlderAttemptChangesNothing) {
  AddJob("trainingJobs/a");
  ASSERT_EQ((*store().jobs().ClaimOldestQueued())->attempt(), 1);
  ASSERT_TRUE(SetState("trainingJobs/a", State::RUNNING, State::QUEUED).ok());
  ASSERT_EQ((*store().jobs().ClaimOldestQueued())->attempt(), 2);
  bool applied = false;
  JobChange change{.expected = {State::RUNNING}, .fence = 1, .apply = [&](auto&, auto& events) {
                     applied = true;
                     events.push_back(MessageEvent("late"));
                   }};
  EXPECT_EQ(store().jobs().Change("trainingJobs/a", change).status().code(),
            absl::StatusCode::kAborted);
  EXPECT_FALSE(applied);
  change.fence = 2;
  EXPECT_TRUE(store().jobs().Change("trainingJobs/a", change).ok());
  EXPECT_EQ(store().jobs().ReadEvents("trainingJobs/a", 1, 10)->back().attempt(), 2);
}

TEST_F(JobTableTest, ClaimsTheOldestQueuedJobOnce) {
  EXPECT_FALSE(store().jobs().ClaimOldestQueued()->has_value());
  for (const char* name : {"trainingJobs/b", "trainingJobs/a", "trainingJobs/c"}) AddJob(name);
  ASSERT_TRUE(SetState("trainingJobs/b", State::QUEUED, State::PAUSED).ok());
  const auto job = store().jobs().ClaimOldestQueued();
  EXPECT_EQ((*job)->name(), "trainingJobs/a");
  EXPECT_EQ((*job)->state(), State::RUNNING);
  EXPECT_TRUE((*job)->has_start_time());
  const auto events = store().jobs().ReadEvents("trainingJobs/a", 2, 10);
  ASSERT_EQ(events->size(), 1u);
  EXPECT_EQ(events->front().state_changed().state(), State::RUNNING);
  EXPECT_EQ(events->front().attempt(), 1);
  EXPECT_EQ((*store().jobs().ClaimOldestQueued())->name(), "trainingJobs/c");
  EXPECT_FALSE(store().jobs().ClaimOldestQueued()->has_value());
}

TEST_F(JobTableTest, AQueuedJobThatCannotBeReadStopsNoOther) {
  for (const char* name : {"trainingJobs/a", "trainingJobs/b", "trainingJobs/c"}) AddJob(name);
  Close();
  Execute(R"(UPDATE jobs SET message = '{"name": ' WHERE name = 'trainingJobs/a')");
  Execute(R"(UPDATE jobs SET message = '{"new_field": 1}' WHERE name = 'trainingJobs/b')");
  Reopen();
  const auto page = store().jobs().List({}, 0, "");
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_THAT(NamesOf(page->rows),
              ElementsAre("trainingJobs/c", "trainingJobs/b", "trainingJobs/a"));
  EXPECT_EQ(page->rows[1].state(), State::QUEUED);
  EXPECT_EQ(page->rows[1].queue_position(), 1);
  EXPECT_THAT(page->rows[1].error().message(), HasSubstr("start the newer server again"));
  EXPECT_THAT(page->rows[2].error().message(), HasSubstr("damaged"));

  std::vector<v1::TrainingJob> unreadable;
  EXPECT_EQ((*store().jobs().ClaimOldestQueued(&unreadable))->name(), "trainingJobs/c");
  EXPECT_THAT(NamesOf(unreadable), ElementsAre("trainingJobs/a", "trainingJobs/b"));
  EXPECT_FALSE(store().jobs().ClaimOldestQueued()->has_value());

  EXPECT_EQ(ReasonOf(store().jobs().Get("trainingJobs/a").status()), v1::FILE_CHANGED);
  EXPECT_TRUE(store().jobs().Delete("trainingJobs/a").ok());
  EXPECT_EQ(store().jobs().Get("trainingJobs/a").status().code(), absl::StatusCode::kNotFound);
  Close();
  Execute("UPDATE jobs SET message = '{' WHERE name = 'trainingJobs/c'");
  Reopen();
  EXPECT_EQ(ReasonOf(store().jobs().Delete("trainingJobs/c")), v1::JOB_STATE);  // it runs
}

TEST_F(JobTableTest, TellsTheQueuePositionOfQueuedJobs) {
  for (const char* name : {"trainingJobs/a", "trainingJobs/b", "trainingJobs/c"}) AddJob(name);
  ASSERT_TRUE(SetState("trainingJobs/b", State::QUEUED, State::PAUSED).ok());
  AddJob("trainingJobs/d");
  EXPECT_EQ(store().jobs().Get("trainingJobs/a")->queue_position(), 0);
  EXPECT_EQ(store().jobs().Get("trainingJobs/b")->queue_position(), 0);
  EXPECT_EQ(store().jobs().Get("trainingJobs/d")->queue_position(), 2);
  std::vector<int> positions;
  const auto page = store().jobs().List({}, 0, "");
  ASSERT_TRUE(page.ok());
  for (const auto& job : page->rows) {
    positions.push_back(job.queue_position());
  }
  EXPECT_THAT(positions, ElementsAre(2, 1, 0, 0));  // d, c, b (paused), a
}

TEST_F(JobTableTest, ListsByStateNewestFirst) {
  for (int i = 1; i <= 6; ++i) AddJob("trainingJobs/j" + std::to_string(i));
  ASSERT_TRUE(SetState("trainingJobs/j2", State::QUEUED, State::PAUSED).ok());
  ASSERT_TRUE(SetState("trainingJobs/j5", State::QUEUED, State::CANCELLED).ok());
  auto page = store().jobs().List({State::PAUSED, State::CANCELLED}, 1, "");
  EXPECT_THAT(NamesOf(page->rows), ElementsAre("trainingJobs/j5"));
  AddJob("trainingJobs/j7");
  page = store().jobs().List({State::CANCELLED, State::PAUSED}, 1, page->next_page_token);
  EXPECT_THAT(NamesOf(page->rows), ElementsAre("trainingJobs/j2"));
  EXPECT_EQ(page->next_page_token, "");
  EXPECT_THAT(NamesOf(*store().jobs().InStates({State::PAUSED, State::CANCELLED})),
              ElementsAre("trainingJobs/j2", "trainingJobs/j5"));
}

TEST_F(JobTableTest, ATokenHoldsForItsFilterOnly) {
  for (int i = 1; i <= 3; ++i) AddJob("trainingJobs/j" + std::to_string(i));
  const std::string token = store().jobs().List({State::QUEUED}, 1, "")->next_page_token;
  EXPECT_TRUE(store().jobs().List({State::QUEUED}, 1, token).ok());
  EXPECT_EQ(ReasonOf(store().jobs().List({}, 1, token).status()), v1::PAGE_TOKEN_INVALID);
  EXPECT_EQ(ReasonOf(store().jobs().List({State::PAUSED}, 1, token).status()),
            v1::PAGE_TOKEN_INVALID);
}

TEST_F(JobTableTest, DeletesEndedJobsOnly) {
  AddDataset("datasets/d-1");
  AddJob("trainingJobs/a", "datasets/d-1");
  const absl::Status status = store().jobs().Delete("trainingJobs/a");
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(status), v1::JOB_STATE);
  ASSERT_TRUE(SetState("trainingJobs/a", State::QUEUED, State::CANCELLED).ok());
  ASSERT_TRUE(store().jobs().Delete("trainingJobs/a").ok());
  EXPECT_EQ(store().jobs().Get("trainingJobs/a").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store().jobs().Delete("trainingJobs/a").code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(*store().jobs().ReadEvents("trainingJobs/a", 1, 10), IsEmpty());
  AddJob("trainingJobs/a", "datasets/d-1");  // the name is free again, and begins at event 1
  EXPECT_EQ(store().jobs().Get("trainingJobs/a")->last_sequence(), 1);
}

TEST_F(JobTableTest, CountsJobsByState) {
  AddJob("trainingJobs/a");
  AddJob("trainingJobs/b");
  ASSERT_TRUE(store().jobs().ClaimOldestQueued().ok());
  const auto counts = store().jobs().CountByState();
  ASSERT_TRUE(counts.ok());
  EXPECT_THAT(*counts, ::testing::IsSupersetOf({std::pair<State::State, int64_t>{State::QUEUED, 1},
                                                {State::RUNNING, 1},
                                                {State::FAILED, 0}}));
}

TEST_F(JobTableTest, TheMetricsFollowTheJobs) {
  AddJob("trainingJobs/a");
  AddJob("trainingJobs/b");
  ASSERT_TRUE(store().jobs().ClaimOldestQueued().ok());
  const auto failed = store().jobs().Change(
      "trainingJobs/a", {.expected = {State::RUNNING}, .apply = [](auto& job, auto&) {
                           job.set_state(State::FAILED);
                           google::rpc::ErrorInfo info;
                           info.set_reason("CRASH_LOOP");
                           job.mutable_error()->add_details()->PackFrom(info);
                         }});
  ASSERT_TRUE(failed.ok()) << failed.status();
  EXPECT_TRUE(failed->has_end_time());
  EXPECT_EQ(failed->error().details_size(), 1);
  const std::string text = metrics().Text();
  EXPECT_THAT(text, HasSubstr("tasuki_jobs{state=\"QUEUED\"} 1"));
  EXPECT_THAT(text, HasSubstr("tasuki_jobs{state=\"RUNNING\"} 0"));
  EXPECT_THAT(text, HasSubstr("tasuki_jobs{state=\"FAILED\"} 1"));
  EXPECT_THAT(text, HasSubstr("tasuki_jobs_created_total 2"));
  EXPECT_THAT(text, HasSubstr("{reason=\"CRASH_LOOP\",state=\"FAILED\"} 1"));
  EXPECT_THAT(text, HasSubstr("tasuki_job_queue_wait_seconds_count 1"));
  ASSERT_TRUE(store().jobs().Delete("trainingJobs/a").ok());
  EXPECT_THAT(metrics().Text(), HasSubstr("tasuki_jobs{state=\"FAILED\"} 0"));
}

TEST_F(JobTableTest, NumbersThatAreNotFiniteAreKept) {
  AddJob("trainingJobs/a");
  const auto changed = store().jobs().Change(
      "trainingJobs/a",
      {.expected = {State::QUEUED}, .apply = [](auto& job, auto&) {
         job.mutable_progress()->set_loss(std::numeric_limits<double>::infinity());
       }});
  ASSERT_TRUE(changed.ok()) << changed.status();
  EXPECT_EQ(store().jobs().Get("trainingJobs/a")->progress().loss(),
            std::numeric_limits<double>::infinity());
}

}  // namespace
}  // namespace tasuki
