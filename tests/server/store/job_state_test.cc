#include "server/store/job_state.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <set>
#include <utility>

namespace tasuki {
namespace {

using Job = v1::TrainingJob;

TEST(JobState, AllowsExactlyTheChangesThatAreDrawn) {
  const std::set<std::pair<Job::State, Job::State>> allowed = {
      {Job::QUEUED, Job::RUNNING},       {Job::QUEUED, Job::PAUSED},
      {Job::QUEUED, Job::CANCELLED},     {Job::RUNNING, Job::QUEUED},
      {Job::RUNNING, Job::PAUSED},       {Job::RUNNING, Job::CANCELLING},
      {Job::RUNNING, Job::SUCCEEDED},    {Job::RUNNING, Job::FAILED},
      {Job::PAUSED, Job::QUEUED},        {Job::PAUSED, Job::CANCELLED},
      {Job::CANCELLING, Job::CANCELLED}, {Job::FAILED, Job::QUEUED}};
  for (int from = Job::State_MIN; from <= Job::State_MAX; ++from) {
    for (int to = Job::State_MIN; to <= Job::State_MAX; ++to) {
      const std::pair change(static_cast<Job::State>(from), static_cast<Job::State>(to));
      EXPECT_EQ(MayBecome(change.first, change.second), allowed.count(change) == 1)
          << Job::State_Name(from) << " to " << Job::State_Name(to);
    }
  }
}

TEST(JobState, HasEndedExactlyWhereNothingFollowsButARetry) {
  for (int from = Job::QUEUED; from <= Job::State_MAX; ++from) {
    bool leads_on = false;
    for (int to = Job::QUEUED; to <= Job::State_MAX; ++to) {
      leads_on |= from != Job::FAILED &&
                  MayBecome(static_cast<Job::State>(from), static_cast<Job::State>(to));
    }
    EXPECT_EQ(HasEnded(static_cast<Job::State>(from)), !leads_on) << Job::State_Name(from);
  }
}

TEST(JobState, EnteringAStateAppendsItsEventWithReasonAndAttempt) {
  Job job;
  job.set_state(Job::RUNNING);
  job.set_attempt(4);
  std::vector<v1::TrainingJobEvent> events;
  EnterState(job, Job::FAILED, "because", events);
  EXPECT_EQ(job.state(), Job::FAILED);
  ASSERT_EQ(events.size(), 1);
  EXPECT_EQ(events[0].attempt(), 4);
  EXPECT_EQ(events[0].state_changed().state(), Job::FAILED);
  EXPECT_EQ(events[0].state_changed().reason(), "because");
  EXPECT_EQ(events[0].state_changed().cause(), StateChanged::CAUSE_UNSPECIFIED);
}

TEST(JobState, EnteringAStateSaysTheCauseAndEndsAWishToPause) {
  Job job;
  job.set_state(Job::RUNNING);
  job.set_pause_requested(true);
  std::vector<v1::TrainingJobEvent> events;
  EnterState(job, Job::QUEUED, "", events, StateChanged::SERVER_DIED);
  EXPECT_EQ(events[0].state_changed().cause(), StateChanged::SERVER_DIED);
  EXPECT_FALSE(job.pause_requested());
}

TEST(JobStateDeathTest, AbortsRatherThanLeaveAFinalState) {
  Job job;
  job.set_state(Job::SUCCEEDED);
  std::vector<v1::TrainingJobEvent> events;
  EXPECT_EXIT(EnterState(job, Job::QUEUED, "", events), testing::KilledBySignal(SIGABRT), "");
}

}  // namespace
}  // namespace tasuki
