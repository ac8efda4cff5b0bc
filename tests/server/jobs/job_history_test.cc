#include "server/jobs/job_history.h"

#include <gtest/gtest.h>

#include "tests/server/jobs/job_fixture.h"

namespace tasuki {
namespace {

class JobHistoryTest : public JobFixture {
 protected:
  JobHistoryTest() {
    Job job;
    job.set_name("trainingJobs/j");
    job.set_state(Job::QUEUED);
    *job.mutable_pretraining() = RequestOf("").training_job().pretraining();
    EXPECT_TRUE(store_->jobs().Insert(job, "", "", StateEvent(job, Job::QUEUED, "")).ok());
  }
  void Claim() { ASSERT_TRUE(store_->jobs().ClaimOldestQueued().value().has_value()); }
  void Append(v1::TrainingJobEvent event) {
    JobChange change{.expected = {Job::RUNNING}};
    change.apply = [&](Job& job, std::vector<v1::TrainingJobEvent>& events) {
      event.set_attempt(job.attempt());
      events.push_back(event);
    };
    ASSERT_TRUE(store_->jobs().Change("trainingJobs/j", change).ok());
  }
  void Queue(StateChanged::Cause cause) {
    JobChange change{.expected = {Job::RUNNING}};
    change.apply = [&](Job& job, std::vector<v1::TrainingJobEvent>& events) {
      EnterState(job, Job::QUEUED, "", events, cause);
    };
    ASSERT_TRUE(store_->jobs().Change("trainingJobs/j", change).ok());
  }
  void Die() { Queue(StateChanged::TRAINER_DIED); }
  void RunUntilTheServerDies() {
    Claim();
    Queue(StateChanged::SERVER_DIED);
  }
  void FailAndRetry() {
    JobChange fail{.expected = {Job::RUNNING}};
    fail.apply = [](Job& job, auto& events) { EnterState(job, Job::FAILED, "", events); };
    ASSERT_TRUE(store_->jobs().Change("trainingJobs/j", fail).ok());
    JobChange retry{.expected = {Job::FAILED}};
    retry.apply = [](Job& job, auto& events) {
      EnterState(job, Job::QUEUED, "", events, StateChanged::RETRIED);
    };
    ASSERT_TRUE(store_->jobs().Change("trainingJobs/j", retry).ok());
  }
  static v1::TrainingJobEvent Checkpoint(int64_t step = 1) {
    v1::TrainingJobEvent event;
    event.mutable_checkpoint_written()->set_step(step);
    return event;
  }
  JobHistory History() { return ReadJobHistory(store_->jobs(), Get("trainingJobs/j")).value(); }
};

TEST_F(JobHistoryTest, CountsDeathsSinceTheNewestCheckpoint) {
  EXPECT_EQ(History().deaths, 0);
  Claim();
  Die();
  Claim();
  EXPECT_EQ(History().deaths, 1);
  Append(Checkpoint());
  EXPECT_EQ(History().deaths, 0);
  Die();
  Claim();
  Die();
  EXPECT_EQ(History().deaths, 2);
}

TEST_F(JobHistoryTest, LooksBehindALongAttempt) {
  Claim();
  Die();
  Claim();
  v1::TrainingJobEvent progress;
  progress.mutable_progress()->set_step(1);
  for (int i = 0; i < 1200; ++i) Append(progress);
  EXPECT_EQ(History().deaths, 1);
}

TEST_F(JobHistoryTest, CountsServersThatDiedApartFromTrainers) {
  RunUntilTheServerDies();
  EXPECT_EQ(History().deaths, 0);
  EXPECT_EQ(History().server_deaths, 1);
  Claim();
  Die();
  EXPECT_EQ(History().deaths, 1);
  EXPECT_EQ(History().server_deaths, 1);
  Claim();
  Append(Checkpoint());
  EXPECT_EQ(History().server_deaths, 0);
  Queue(StateChanged::CAUSE_UNSPECIFIED);
  EXPECT_EQ(History().server_deaths, 0) << "it was stopped";
  RunUntilTheServerDies();
  EXPECT_EQ(History().server_deaths, 1);
}

TEST_F(JobHistoryTest, ACheckpointOfTheSameStepDoesNotMakeServersForgotten) {
  for (const int64_t step : {0, 20}) {
    Claim();
    Append(Checkpoint(step));
    Queue(StateChanged::SERVER_DIED);
    for (int i = 2; i <= 4; ++i) {
      Claim();
      Append(Checkpoint(step));
      EXPECT_EQ(History().server_deaths, i - 1);
      Queue(StateChanged::SERVER_DIED);
      EXPECT_EQ(History().server_deaths, i);
    }
  }
}

TEST_F(JobHistoryTest, MemoryMayHaveLackedFromTheSecondServerOn) {
  RunUntilTheServerDies();
  EXPECT_FALSE(History().lacked_memory());
  RunUntilTheServerDies();
  EXPECT_TRUE(History().lacked_memory());
  Claim();
  Die();
  EXPECT_FALSE(History().lacked_memory()) << "a trainer's death is nothing of the server's";
  Claim();
  Append(Checkpoint());
  Queue(StateChanged::SERVER_DIED);
  EXPECT_FALSE(History().lacked_memory());
}

TEST_F(JobHistoryTest, KnowsWhyTheJobWasQueuedLast) {
  EXPECT_EQ(History().queued_by, StateChanged::CAUSE_UNSPECIFIED);
  RunUntilTheServerDies();
  Claim();
  EXPECT_EQ(History().queued_by, StateChanged::SERVER_DIED);
  Append(Checkpoint(1));
  Append(Checkpoint(2));
  Append(Checkpoint(3));
  EXPECT_EQ(History().queued_by, StateChanged::SERVER_DIED);
  Die();
  Claim();
  EXPECT_EQ(History().queued_by, StateChanged::TRAINER_DIED);
}

TEST_F(JobHistoryTest, KnowsADeathForLackOfMemory) {
  Claim();
  Queue(StateChanged::TRAINER_OUT_OF_MEMORY);
  Claim();
  EXPECT_EQ(History().deaths, 1);
  EXPECT_TRUE(History().lacked_memory());
  Die();
  Claim();
  EXPECT_FALSE(History().lacked_memory());
}

TEST_F(JobHistoryTest, CountsNoDeathBeforeARetry) {
  RunUntilTheServerDies();
  Claim();
  Die();
  Claim();
  FailAndRetry();
  EXPECT_EQ(History().deaths, 0);
  EXPECT_EQ(History().server_deaths, 0);
  Claim();
  Die();
  EXPECT_EQ(History().deaths, 1);
  RunUntilTheServerDies();
  EXPECT_EQ(History().server_deaths, 1);
}

TEST_F(JobHistoryTest, ARetryFromACheckpointCountsWhatComesAfterIt) {
  Claim();
  Append(Checkpoint(20));
  Queue(StateChanged::SERVER_DIED);
  Claim();
  FailAndRetry();
  RunUntilTheServerDies();
  Claim();
  Append(Checkpoint(20));
  EXPECT_EQ(History().server_deaths, 1);
}

}  // namespace
}  // namespace tasuki
