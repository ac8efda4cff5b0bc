#include "server/jobs/job_history.h"

#include <gtest/gtest.h>

#include "server/jobs/job_state.h"
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
  void Queue(const std::string& reason) {
    JobChange change{.expected = {Job::RUNNING}};
    change.apply = [&](Job& job, std::vector<v1::TrainingJobEvent>& events) {
      EnterState(job, Job::QUEUED, reason, events);
    };
    ASSERT_TRUE(store_->jobs().Change("trainingJobs/j", change).ok());
  }
  void Die() { Queue(DeathReason("it exited with code 1", false)); }
  static v1::TrainingJobEvent Checkpoint() {
    v1::TrainingJobEvent event;
    event.mutable_checkpoint_written()->set_step(1);
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

TEST_F(JobHistoryTest, DoesNotCountARestartOfTheServer) {
  Claim();
  Queue(kServerRestarted);
  Claim();
  EXPECT_EQ(History().deaths, 0);
  EXPECT_TRUE(History().queued_by_restart);
  EXPECT_FALSE(History().queued_by_death);
}

TEST_F(JobHistoryTest, KnowsWhyTheJobWasQueuedLast) {
  Claim();
  Queue(kServerRestarted);
  Claim();
  Die();
  Claim();
  EXPECT_TRUE(History().queued_by_death);
  EXPECT_FALSE(History().queued_by_restart);
}

TEST_F(JobHistoryTest, KnowsADeathForLackOfMemory) {
  Claim();
  Queue(DeathReason("it was ended by signal 9", true));
  Claim();
  EXPECT_EQ(History().deaths, 1);
  EXPECT_TRUE(History().queued_by_death);
  EXPECT_TRUE(History().queued_by_lack_of_memory);
  Die();
  Claim();
  EXPECT_FALSE(History().queued_by_lack_of_memory);
}

TEST_F(JobHistoryTest, CountsNoDeathBeforeARetry) {
  Claim();
  Die();
  Claim();
  JobChange fail{.expected = {Job::RUNNING}};
  fail.apply = [](Job& job, auto& events) { EnterState(job, Job::FAILED, "", events); };
  ASSERT_TRUE(store_->jobs().Change("trainingJobs/j", fail).ok());
  JobChange retry{.expected = {Job::FAILED}};
  retry.apply = [](Job& job, auto& events) { EnterState(job, Job::QUEUED, kRetried, events); };
  ASSERT_TRUE(store_->jobs().Change("trainingJobs/j", retry).ok());
  EXPECT_EQ(History().deaths, 0);
  Claim();
  Die();
  EXPECT_EQ(History().deaths, 1);
}

TEST_F(JobHistoryTest, RemembersAPauseOfThePresentAttemptOnly) {
  Claim();
  EXPECT_FALSE(History().pause_asked);
  Append(PauseAskedEvent(Get("trainingJobs/j")));
  Append(Checkpoint());
  EXPECT_TRUE(History().pause_asked);
  Die();
  Claim();
  EXPECT_FALSE(History().pause_asked);
}

}  // namespace
}  // namespace tasuki
