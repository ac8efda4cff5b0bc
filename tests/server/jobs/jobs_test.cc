#include "server/jobs/jobs.h"

#include <gmock/gmock.h>
#include <soci/soci.h>
#include <soci/sqlite3/soci-sqlite3.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <set>
#include <sstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "google/rpc/error_details.pb.h"
#include "model/errors/errors.h"
#include "server/jobs/job_history.h"
#include "server/store/job_state.h"
#include "tasuki/internal/trainer.pb.h"
#include "tests/server/jobs/job_fixture.h"

namespace tasuki {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class JobsTest : public JobFixture {
 protected:
  static v1::EstimateTrainingJobRequest EstimateOf(const v1::CreateTrainingJobRequest& create) {
    v1::EstimateTrainingJobRequest request;
    *request.mutable_training_job() = create.training_job();
    return request;
  }
  absl::StatusOr<v1::EstimateTrainingJobResponse> Estimate(
      const v1::CreateTrainingJobRequest& create) {
    return jobs_->Estimate(EstimateOf(create), nullptr);
  }
  // Waits until one is being made.
  void AwaitEstimate() {
    const std::string spec = DataDirectory::spec_in(data_->estimate());
    while (!std::filesystem::exists(spec)) absl::SleepFor(absl::Milliseconds(5));
  }
  // Reason of the newest state.
  std::string LastReason(const std::string& name) {
    std::string reason;
    for (const auto& event : Events(name)) {
      if (event.has_state_changed()) reason = event.state_changed().reason();
    }
    return reason;
  }
  std::string ErrorReason(const Job& job) {
    google::rpc::ErrorInfo info;
    for (const auto& detail : job.error().details()) detail.UnpackTo(&info);
    return info.reason();
  }
  // Stores a job as an earlier server left it, without any trainer.
  std::string LeaveRunning(const std::string& script = "finish") {
    Job job = RequestOf(script).training_job();
    job.set_name("trainingJobs/left");
    job.set_state(Job::QUEUED);
    EXPECT_TRUE(store_->jobs().Insert(job, "", "", StateEvent(job, Job::QUEUED, "")).ok());
    EXPECT_TRUE(store_->jobs().ClaimOldestQueued().value().has_value());
    return job.name();
  }
  // The job was taken up by a server that ended as well.
  void LeaveRunningAgain(const std::string& name) {
    Change(name, [](Job& job, auto& events) {
      EnterState(job, Job::QUEUED, "", events, StateChanged::SERVER_DIED);
    });
    EXPECT_TRUE(store_->jobs().ClaimOldestQueued().value().has_value());
  }
  // Makes one event of the job unreadable.
  void DamageEvent(const std::string& name) {
    soci::session sql(soci::sqlite3, "dbname=" + data_->database());
    sql << "UPDATE job_events SET message = '{' WHERE job = :name AND sequence = 1",
        soci::use(name);
  }
  void Change(const std::string& name,
              std::function<void(Job&, std::vector<v1::TrainingJobEvent>&)> apply) {
    ASSERT_TRUE(
        store_->jobs().Change(name, {.expected = {Job::RUNNING}, .apply = std::move(apply)}).ok());
  }
};

TEST_F(JobsTest, TakesBf16OnlyWhereThisMachineTrainsInIt) {
  v1::CreateTrainingJobRequest request = RequestOf("finish");
  v1::TrainingJob& job = *request.mutable_training_job();
  job.mutable_pretraining()->mutable_recipe()->set_precision(v1::Recipe::BF16);
  request.set_validate_only(true);
  StartJobs();
  const auto refused = jobs_->Create(request);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("recipe.precision: BF16 needs"));
  options_.trains_in_bf16 = true;
  StartJobs();
  EXPECT_TRUE(jobs_->Create(request).ok());
}

TEST_F(JobsTest, PublishesWhatATrainerFinishedThenSaysSucceeded) {
  std::string published;
  publish_ = [&](const Job& job, const std::string& result) {
    EXPECT_EQ(Get(job.name()).state(), Job::RUNNING);
    EXPECT_EQ(Get(job.name()).best_step(), 7);
    published = ReadFile(result + "/made_by_attempt").value();
    return "models/m/versions/4";
  };
  StartJobs();
  const Job job =
      AwaitState(Create("progress evaluation message checkpoint finish"), Job::SUCCEEDED);
  EXPECT_EQ(published, "1");
  EXPECT_EQ(job.model_version(), "models/m/versions/4");
  EXPECT_EQ(job.attempt(), 1);
  EXPECT_EQ(job.best_step(), 7);
  ASSERT_EQ(job.evaluations_size(), 1);
  EXPECT_EQ(job.evaluations(0).accuracy(), .75);
  EXPECT_TRUE(job.has_end_time());

  std::string history;
  for (const auto& event : Events(job.name())) {
    absl::StrAppend(&history, event.sequence(), ":", event.attempt(), ":", event.event_case(), " ");
  }
  // State, state, progress, evaluation, message, checkpoint, progress (publishing), state.
  EXPECT_EQ(history, "1:0:4 2:1:4 3:1:5 4:1:6 5:1:8 6:1:7 7:1:5 8:1:4 ");
}

TEST_F(JobsTest, RunsOneJobAtATimeTheOldestFirst) {
  StartJobs();
  const std::string first = Create("progress wait");
  const std::string second = Create("finish");
  AwaitWord(first);
  EXPECT_EQ(Get(second).state(), Job::QUEUED);
  ASSERT_TRUE(jobs_->Pause(first).ok());
  AwaitState(second, Job::SUCCEEDED);
  EXPECT_EQ(Get(first).state(), Job::PAUSED);
}

TEST_F(JobsTest, TellsSinceWhenTheOldestJobWaits) {
  constexpr char kSeries[] = "\ntasuki_job_oldest_queued_timestamp_seconds ";
  StartJobs();
  const std::string first = Create("progress wait");
  AwaitWord(first);
  EXPECT_THAT(metrics_.Text(), Not(HasSubstr(kSeries))) << "it runs, and nothing waits";
  const std::string second = Create("finish");
  EXPECT_THAT(metrics_.Text(), HasSubstr(kSeries));
  ASSERT_TRUE(jobs_->Cancel(second).ok());
  EXPECT_THAT(metrics_.Text(), Not(HasSubstr(kSeries)));
  ASSERT_TRUE(jobs_->Pause(first).ok());
  AwaitState(first, Job::PAUSED);
  EXPECT_THAT(metrics_.Text(), Not(HasSubstr(kSeries)));
}

TEST_F(JobsTest, CountsWhatGoesWrongWithCheckpoints) {
  StartJobs();
  AwaitState(Create("passed_over checkpoint not_written finish"), Job::SUCCEEDED);
  const std::string text = metrics_.Text();
  EXPECT_THAT(text, HasSubstr("tasuki_checkpoint_fallbacks_total 1\n"));
  EXPECT_THAT(text, HasSubstr("tasuki_checkpoints_total{result=\"error\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("tasuki_checkpoints_total{result=\"ok\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("tasuki_checkpoint_write_seconds_count 1\n"));
}

// TASUKI_JOBS of them, so that what grows with jobs shows.
TEST_F(JobsTest, JobsThatEndedLeaveNoSeries) {
  StartJobs();
  const auto run = [this](int count) {
    for (int i = 0; i < count; ++i) {
      AwaitState(Create("progress evaluation checkpoint finish"), Job::SUCCEEDED);
      if (i % 10 == 0) AwaitState(Create("progress fail"), Job::FAILED);
    }
    std::string text;  // once the last job's are gone, which is a moment after its end
    do {
      text = metrics_.Text();
    } while (absl::StrContains(text, "trainingJobs/"));
    std::set<std::string> series;
    for (const absl::string_view line : absl::StrSplit(text, '\n')) {
      if (!line.empty() && line[0] != '#') series.emplace(line.substr(0, line.rfind(' ')));
    }
    return series;
  };
  const std::set<std::string> before = run(3);
  const char* const count = std::getenv("TASUKI_JOBS");
  const int jobs = count != nullptr ? std::atoi(count) : 20;
  const std::set<std::string> after = run(jobs);
  EXPECT_EQ(after, before);
  std::cout << before.size() << " series after 3 jobs, " << after.size() << " after " << jobs
            << " more\n";
}

TEST_F(JobsTest, TriesAJobAgainWhoseTrainerDied) {
  StartJobs();
  const Job job = AwaitState(Create("say:hello progress kill | finish"), Job::SUCCEEDED);
  EXPECT_EQ(job.attempt(), 2);
  EXPECT_THAT(States(job.name()),
              ElementsAre(Job::QUEUED, Job::RUNNING, Job::QUEUED, Job::RUNNING, Job::SUCCEEDED));
  std::vector<std::string> messages;
  for (const auto& event : Events(job.name())) {
    if (event.has_message()) messages.push_back(event.message().text());
  }
  ASSERT_EQ(messages.size(), 1);
  EXPECT_THAT(messages[0], HasSubstr("signal 9 (Killed)"));
  EXPECT_THAT(messages[0], HasSubstr("\nhello"));
}

TEST_F(JobsTest, EndsACrashLoopAfterThreeDeathsWithoutACheckpoint) {
  StartJobs();
  const Job job = AwaitState(Create("say:alas exit:1"), Job::FAILED);
  EXPECT_EQ(job.attempt(), 3);
  EXPECT_EQ(job.error().code(), static_cast<int>(absl::StatusCode::kInternal));
  EXPECT_EQ(ErrorReason(job), "CRASH_LOOP");
  EXPECT_THAT(job.error().message(), HasSubstr("it exited with code 1"));
  EXPECT_THAT(job.error().message(), HasSubstr("alas"));
}

TEST_F(JobsTest, SaysOutOfMemoryWhereTheSystemKilledForIt) {
  options_.vmstat = data_->job("trainingJobs/hungry") + "/vmstat";
  StartJobs();
  v1::CreateTrainingJobRequest request = RequestOf("starve");
  request.set_training_job_id("hungry");
  ASSERT_TRUE(jobs_->Create(request).ok());
  const Job job = AwaitState("trainingJobs/hungry", Job::FAILED);
  EXPECT_EQ(job.attempt(), 3) << "memory may be there the next time";
  EXPECT_EQ(job.error().code(), static_cast<int>(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(ErrorReason(job), "OUT_OF_MEMORY");
  EXPECT_THAT(job.error().message(), HasSubstr("the system had run out of memory"));
  EXPECT_THAT(LastReason(job.name()), HasSubstr("batch_size"));
}

TEST_F(JobsTest, TriesAJobAgainWhoseTrainerFoundNoMemory) {
  StartJobs();
  EXPECT_EQ(AwaitState(Create("hungry|finish"), Job::SUCCEEDED).attempt(), 2);
  const Job job = AwaitState(Create("say:alas hungry"), Job::FAILED);
  EXPECT_EQ(job.attempt(), 3);
  EXPECT_EQ(job.error().code(), static_cast<int>(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(ErrorReason(job), "OUT_OF_MEMORY");
  EXPECT_THAT(job.error().message(), HasSubstr("does not fit into memory"));
  EXPECT_THAT(job.error().message(), HasSubstr("\nalas"));
}

TEST_F(JobsTest, AKillThatTheSystemDidNotCountIsNoLackOfMemory) {
  options_.vmstat = data_->root() + "/vmstat";
  ASSERT_TRUE(WriteFile(options_.vmstat, "oom_kill 7\n").ok());
  StartJobs();
  EXPECT_EQ(ErrorReason(AwaitState(Create("kill"), Job::FAILED)), "CRASH_LOOP");
}

TEST_F(JobsTest, WaitsLongerAfterEachDeathAndNotWhenItStops) {
  options_.death_pause = absl::Milliseconds(100);
  StartJobs();
  const absl::Time start = absl::Now();
  const std::string dying = Create("abort");
  AwaitState(dying, Job::FAILED);
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(500)) << "100 ms and 400 ms";
  options_.death_pause = absl::Hours(1);
  StartJobs();
  const std::string name = Create("abort");
  Await(name, [](const Job& job) { return job.attempt() == 1 && job.state() == Job::QUEUED; });
  jobs_->Stop();
  EXPECT_EQ(Get(name).state(), Job::QUEUED);
}

TEST_F(JobsTest, ACheckpointMakesDeathsForgotten) {
  StartJobs();
  const Job job = AwaitState(Create("abort|abort|checkpoint abort|abort|finish"), Job::SUCCEEDED);
  EXPECT_EQ(job.attempt(), 5);
}

TEST_F(JobsTest, TakesANonsenseEventForADeath) {
  StartJobs();
  const Job job = AwaitState(Create("garbage|finish"), Job::SUCCEEDED);
  EXPECT_EQ(job.attempt(), 2);
}

TEST_F(JobsTest, AMissingTrainerIsACrashLoopThatNamesIt) {
  options_.trainer_path = "/nonexistent/tasuki-trainer";
  StartJobs();
  const Job job = AwaitState(Create("finish"), Job::FAILED);
  EXPECT_THAT(job.error().message(), HasSubstr("/nonexistent/tasuki-trainer"));
}

TEST_F(JobsTest, DoesNotTryAFailureAgain) {
  StartJobs();
  const Job job = AwaitState(Create("say:alas fail"), Job::FAILED);
  EXPECT_EQ(job.attempt(), 1);
  EXPECT_EQ(job.error().message(), "The loss is NaN.\nThe trainer's last lines:\nattempt 1\nalas");
  EXPECT_EQ(ErrorReason(job), "NON_FINITE_LOSS");
  EXPECT_EQ(LastReason(job.name()), "The loss is NaN.");
}

TEST_F(JobsTest, AResultThatCannotBePublishedFailsTheJob) {
  publish_ = [](const Job&, const std::string&) {
    return MakeError(absl::StatusCode::kInvalidArgument, v1::MODEL_INVALID, "No weights.");
  };
  StartJobs();
  const Job job = AwaitState(Create("finish"), Job::FAILED);
  EXPECT_EQ(ErrorReason(job), "MODEL_INVALID");
}

TEST_F(JobsTest, PublishesAgainWhileTheStoreDoesNotAnswer) {
  int calls = 0;
  publish_ = [&](const Job&, const std::string&) -> absl::StatusOr<std::string> {
    if (++calls == 1) return absl::UnavailableError("not now");
    return "models/m/versions/1";
  };
  StartJobs();
  AwaitState(Create("finish"), Job::SUCCEEDED);
  EXPECT_EQ(calls, 2);
}

TEST_F(JobsTest, PublishesOnceThereIsSpaceOnTheDisk) {
  int calls = 0;
  publish_ = [&](const Job&, const std::string&) -> absl::StatusOr<std::string> {
    if (++calls == 1) return MakeError(absl::StatusCode::kResourceExhausted, v1::DISK_FULL, "full");
    return "models/m/versions/1";
  };
  StartJobs();
  AwaitState(Create("finish"), Job::SUCCEEDED);
  EXPECT_EQ(calls, 2);
}

TEST_F(JobsTest, BeginsOnceThereIsSpaceForTheSpecification) {
  const std::string directory = data_->job("trainingJobs/patient");
  ASSERT_TRUE(MakeDirectories(directory).ok());
  // What is written first goes to a device that is full; the link goes with that try.
  std::filesystem::create_symlink("/dev/full", directory + "/spec.json.tmp");
  StartJobs();
  v1::CreateTrainingJobRequest request = RequestOf("finish");
  request.set_training_job_id("patient");
  ASSERT_TRUE(jobs_->Create(request).ok());
  EXPECT_EQ(AwaitState("trainingJobs/patient", Job::SUCCEEDED).attempt(), 1);
}

TEST_F(JobsTest, APauseIsNotLostThoughTheTrainerDiesBeforeItHearsOfIt) {
  // Holds this thread within Pause, after its change is stored, until the attempt is over.
  bool pausing = false;
  listener_ = [&, here = std::this_thread::get_id()](const std::string& job) {
    if (std::this_thread::get_id() != here || !pausing) return;
    Await(job, [](const Job& job) { return job.state() != Job::RUNNING; });
  };
  StartJobs();
  const std::string name = Create("progress nap kill | finish");
  AwaitWord(name);
  pausing = true;
  ASSERT_TRUE(jobs_->Pause(name).ok());
  EXPECT_EQ(AwaitState(name, Job::PAUSED).attempt(), 1);
  EXPECT_THAT(LastReason(name), HasSubstr("signal 9"));
}

TEST_F(JobsTest, PausesAndResumes) {
  StartJobs();
  const std::string name = Create("progress wait | finish");
  AwaitWord(name);
  ASSERT_TRUE(jobs_->Pause(name).ok());
  AwaitState(name, Job::PAUSED);
  EXPECT_EQ(jobs_->Pause(name).value().state(), Job::PAUSED);
  EXPECT_EQ(jobs_->Resume(name).value().state(), Job::QUEUED);
  EXPECT_EQ(AwaitState(name, Job::SUCCEEDED).attempt(), 2);
  EXPECT_EQ(ReasonOf(jobs_->Resume(name).status()), v1::JOB_STATE);
  EXPECT_EQ(ReasonOf(jobs_->Pause(name).status()), v1::JOB_STATE);
}

TEST_F(JobsTest, WhatGoesOnKeepsItsProgressWhileItPrepares) {
  StartJobs();
  const std::string name = Create("progress nap kill | prepares finish");
  const Job job = AwaitState(name, Job::SUCCEEDED);
  EXPECT_EQ(job.attempt(), 2);
  EXPECT_EQ(job.progress().step(), 3);
  EXPECT_EQ(job.progress().total_steps(), 10);
  int prepares = 0;
  for (const auto& event : Events(name)) {
    if (event.progress().phase() != v1::Progress::PREPARING) continue;
    ++prepares;
    EXPECT_EQ(event.progress().step(), 3);
  }
  EXPECT_EQ(prepares, 1);
}

TEST_F(JobsTest, APauseThatIsAskedForAgainIsNoNews) {
  options_.stop_grace = absl::Seconds(2);
  StartJobs();
  const std::string name = Create("progress deaf");
  AwaitWord(name);
  ASSERT_TRUE(jobs_->Pause(name).ok());
  const auto again = jobs_->Pause(name);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->state(), Job::RUNNING);
  EXPECT_TRUE(again->pause_requested());
  int asked = 0;
  for (const auto& event : Events(name)) asked += event.has_message();
  EXPECT_EQ(asked, 1);
  EXPECT_EQ(ReasonOf(jobs_->Resume(name).status()), v1::JOB_STATE) << "it is about to be paused";
  AwaitState(name, Job::PAUSED);
}

TEST_F(JobsTest, AResumeThatComesAgainChangesNothing) {
  StartJobs();
  const std::string name = Create("progress wait");
  AwaitWord(name);
  ASSERT_TRUE(jobs_->Pause(name).ok());
  AwaitState(name, Job::PAUSED);
  const std::string other = Create("progress wait");
  Await(other, [](const Job& job) { return job.has_progress(); });  // has the device
  for (int i = 0; i < 2; ++i) EXPECT_EQ(jobs_->Resume(name).value().state(), Job::QUEUED);
  ASSERT_TRUE(jobs_->Cancel(other).ok());
  AwaitState(name, Job::RUNNING);
  EXPECT_EQ(jobs_->Resume(name).value().state(), Job::RUNNING);
  EXPECT_THAT(States(name),
              ElementsAre(Job::QUEUED, Job::RUNNING, Job::PAUSED, Job::QUEUED, Job::RUNNING));
}

TEST_F(JobsTest, TriesAFailedJobAgain) {
  StartJobs();
  const std::string name = Create("progress fail | finish");
  AwaitState(name, Job::FAILED);
  EXPECT_EQ(jobs_->Retry(name).value().state(), Job::QUEUED);
  EXPECT_TRUE(jobs_->Retry(name).ok()) << "the call may come twice";
  const Job job = AwaitState(name, Job::SUCCEEDED);
  EXPECT_EQ(job.attempt(), 2);
  EXPECT_FALSE(job.has_error());
  EXPECT_THAT(States(name), ElementsAre(Job::QUEUED, Job::RUNNING, Job::FAILED, Job::QUEUED,
                                        Job::RUNNING, Job::SUCCEEDED));
  EXPECT_EQ(ReasonOf(jobs_->Retry(name).status()), v1::JOB_STATE);
}

TEST_F(JobsTest, ARetryForgetsTheDeathsBeforeIt) {
  StartJobs();
  const std::string name = Create("kill | kill | kill | kill | kill | finish");
  EXPECT_EQ(AwaitState(name, Job::FAILED).attempt(), 3);
  ASSERT_TRUE(jobs_->Retry(name).ok());
  EXPECT_EQ(AwaitState(name, Job::SUCCEEDED).attempt(), 6);
}

TEST_F(JobsTest, ARetryPublishesAgainWhatCouldNotBePublished) {
  int calls = 0;
  publish_ = [&](const Job&, const std::string&) -> absl::StatusOr<std::string> {
    if (++calls > 1) return "models/m/versions/1";
    return MakeError(absl::StatusCode::kInvalidArgument, v1::MODEL_INVALID, "No weights.");
  };
  StartJobs();
  const std::string name = Create("finish");
  const Job failed = AwaitState(name, Job::FAILED);
  EXPECT_EQ(failed.evaluations_size(), 1);
  EXPECT_EQ(failed.calibrations_size(), 1);
  const auto retried = jobs_->Retry(name);
  ASSERT_TRUE(retried.ok());
  EXPECT_EQ(retried->evaluations_size(), 0) << "what was not published has no figures";
  EXPECT_EQ(retried->calibrations_size(), 0);
  EXPECT_EQ(AwaitState(name, Job::SUCCEEDED).model_version(), "models/m/versions/1");
}

TEST_F(JobsTest, FinishesARunningJob) {
  StartJobs();
  const std::string name = Create("progress wait");
  AwaitWord(name);
  EXPECT_TRUE(jobs_->Finish(name).value().finish_requested());
  AwaitState(name, Job::SUCCEEDED);
  EXPECT_EQ(ReasonOf(jobs_->Finish(name).status()), v1::JOB_STATE) << "though asked before";
  const std::string other = Create("finish");
  AwaitState(other, Job::SUCCEEDED);
  EXPECT_EQ(ReasonOf(jobs_->Finish(other).status()), v1::JOB_STATE);
}

TEST_F(JobsTest, FinishesNoJobThatIsBeingCancelled) {
  options_.stop_grace = absl::Seconds(1);
  StartJobs();
  const std::string name = Create("progress deaf");
  AwaitWord(name);
  EXPECT_TRUE(jobs_->Finish(name).ok());
  EXPECT_EQ(jobs_->Finish(name).value().state(), Job::RUNNING) << "the call may come twice";
  ASSERT_EQ(jobs_->Cancel(name).value().state(), Job::CANCELLING);
  EXPECT_EQ(ReasonOf(jobs_->Finish(name).status()), v1::JOB_STATE);
}

TEST_F(JobsTest, AWishToFinishOutlivesAPauseAndAServer) {
  StartJobs();
  const std::string name = Create("progress wait | wait");
  AwaitWord(name);
  ASSERT_TRUE(jobs_->Pause(name).ok());
  AwaitState(name, Job::PAUSED);
  EXPECT_EQ(jobs_->Finish(name).value().state(), Job::PAUSED);
  StartJobs();
  ASSERT_TRUE(jobs_->Resume(name).ok());
  EXPECT_EQ(AwaitState(name, Job::SUCCEEDED).attempt(), 2);
}

TEST_F(JobsTest, TellsATrainerThatMemoryRanOutBeforeIt) {
  StartJobs();
  const std::string name = Create("kill | hungry | progress wait");
  Await(name, [](const Job& job) { return job.attempt() == 3 && job.has_progress(); });
  internal::TrainerSpec spec;
  ASSERT_TRUE(ReadJson(data_->job_spec(name), spec).ok());
  EXPECT_TRUE(spec.out_of_memory());
  EXPECT_TRUE(spec.idle_priority());
  EXPECT_THAT(LastReason(name), IsEmpty());
  ASSERT_TRUE(jobs_->Pause(name).ok());
  AwaitState(name, Job::PAUSED);
  ASSERT_TRUE(jobs_->Resume(name).ok());
  Await(name, [](const Job& job) { return job.attempt() == 4; });
  AwaitState(name, Job::RUNNING);
  Await(name, [&](const Job&) {
    internal::TrainerSpec next;
    return ReadJson(data_->job_spec(name), next).ok() && next.attempt() == 4 &&
           !next.out_of_memory();
  });
}

TEST_F(JobsTest, CancelsARunningJob) {
  StartJobs();
  const std::string name = Create("progress wait");
  AwaitWord(name);
  EXPECT_EQ(jobs_->Cancel(name).value().state(), Job::CANCELLING);
  EXPECT_TRUE(AwaitState(name, Job::CANCELLED).has_end_time());
  EXPECT_EQ(jobs_->Cancel(name).value().state(), Job::CANCELLED);
}

TEST_F(JobsTest, CancelsQueuedAndPausedJobsAtOnce) {
  StartJobs();
  const std::string running = Create("progress wait");
  const std::string queued = Create("finish");
  const std::string paused = Create("finish");
  AwaitWord(running);
  EXPECT_EQ(jobs_->Pause(paused).value().state(), Job::PAUSED);
  EXPECT_EQ(jobs_->Cancel(queued).value().state(), Job::CANCELLED);
  EXPECT_EQ(jobs_->Cancel(paused).value().state(), Job::CANCELLED);
  EXPECT_EQ(Get(running).state(), Job::RUNNING);
}

TEST_F(JobsTest, KillsATrainerThatDoesNotStop) {
  options_.stop_grace = absl::Milliseconds(100);
  StartJobs();
  const std::string cancelled = Create("progress deaf");
  AwaitWord(cancelled);
  ASSERT_TRUE(jobs_->Cancel(cancelled).ok());
  AwaitState(cancelled, Job::CANCELLED);

  const std::string paused = Create("progress deaf");
  AwaitWord(paused);
  ASSERT_TRUE(jobs_->Pause(paused).ok());
  AwaitState(paused, Job::PAUSED);
  EXPECT_THAT(LastReason(paused), HasSubstr("did not stop within 100ms and was killed"));
}

TEST_F(JobsTest, KillsATrainerThatLingersAfterItsLastWord) {
  options_.stop_grace = absl::Milliseconds(100);
  StartJobs();
  EXPECT_EQ(AwaitState(Create("finish linger"), Job::SUCCEEDED).attempt(), 1);
}

TEST_F(JobsTest, ACancellationDuringPublishingWinsAndNamesTheVersion) {
  publish_ = [&](const Job& job, const std::string&) {
    EXPECT_EQ(jobs_->Cancel(job.name()).value().state(), Job::CANCELLING);
    return "models/m/versions/9";
  };
  StartJobs();
  const Job job = AwaitState(Create("finish"), Job::CANCELLED);
  EXPECT_EQ(job.model_version(), "");
  std::string last_message;
  for (const auto& event : Events(job.name())) {
    if (event.has_message()) last_message = event.message().text();
  }
  EXPECT_THAT(last_message, HasSubstr("models/m/versions/9"));
}

TEST_F(JobsTest, StoppingTheServerQueuesTheJobAndTheNextOneGoesOn) {
  StartJobs();
  const std::string name = Create("progress wait | finish");
  AwaitWord(name);
  jobs_->Stop();
  EXPECT_EQ(Get(name).state(), Job::QUEUED);
  EXPECT_EQ(LastReason(name), "The server stopped.");
  StartJobs();
  EXPECT_EQ(AwaitState(name, Job::SUCCEEDED).attempt(), 2);
}

TEST_F(JobsTest, StoppingTheServerTooLateForATrainerIsNoDeath) {
  options_.stop_grace = absl::Milliseconds(50);
  StartJobs();
  const std::string name = Create("progress deaf");
  for (int i = 1; i <= 4; ++i) {
    Await(name, [i](const Job& job) { return job.attempt() == i && job.has_progress(); });
    StartJobs();
  }
  EXPECT_FALSE(HasEnded(Get(name).state()));
}

TEST_F(JobsTest, TakesUpWhatAnEarlierServerRan) {
  const std::string name = LeaveRunning();
  StartJobs();
  const Job job = AwaitState(name, Job::SUCCEEDED);
  EXPECT_EQ(job.attempt(), 2);
  EXPECT_THAT(States(name),
              ElementsAre(Job::QUEUED, Job::RUNNING, Job::QUEUED, Job::RUNNING, Job::SUCCEEDED));
  const JobHistory history = ReadJobHistory(store_->jobs(), job).value();
  EXPECT_EQ(history.deaths, 0);
  EXPECT_EQ(history.server_deaths, 1);
  EXPECT_THAT(metrics_.Text(),
              HasSubstr("tasuki_job_attempts_total{cause=\"server_restart\"} 1\n"));
  internal::TrainerSpec spec;
  ASSERT_TRUE(ReadJson(data_->job_spec(name), spec).ok());
  EXPECT_FALSE(spec.out_of_memory());
}

TEST_F(JobsTest, TheSecondServerThatAJobTakesAlongHalvesWhatItDoesAtOnce) {
  const std::string name = LeaveRunning("progress wait");
  LeaveRunningAgain(name);
  StartJobs();
  AwaitWord(name);
  internal::TrainerSpec spec;
  ASSERT_TRUE(ReadJson(data_->job_spec(name), spec).ok());
  EXPECT_EQ(spec.attempt(), 3);
  EXPECT_TRUE(spec.out_of_memory());
}

TEST_F(JobsTest, AJobThatTakesFiveServersAlongIsACrashLoop) {
  const std::string name = LeaveRunning();
  for (int i = 2; i <= 5; ++i) LeaveRunningAgain(name);
  StartJobs();
  const Job job = Get(name);
  EXPECT_EQ(job.state(), Job::FAILED);
  EXPECT_EQ(job.attempt(), 5);
  EXPECT_EQ(job.error().code(), static_cast<int>(absl::StatusCode::kInternal));
  EXPECT_EQ(ErrorReason(job), "CRASH_LOOP");
  EXPECT_THAT(job.error().message(), HasSubstr("The server ended 5 times in a row"));
  EXPECT_THAT(LastReason(name), HasSubstr("The server ended 5 times in a row"));
  ASSERT_TRUE(jobs_->Retry(name).ok());
  AwaitState(name, Job::SUCCEEDED);
}

TEST_F(JobsTest, AJobThatTookFourServersAlongGoesOn) {
  const std::string name = LeaveRunning();
  for (int i = 2; i <= 4; ++i) LeaveRunningAgain(name);
  StartJobs();
  EXPECT_EQ(AwaitState(name, Job::SUCCEEDED).attempt(), 5);
}

TEST_F(JobsTest, StartsThoughTheEventsOfARunningJobCannotBeRead) {
  const std::string name = LeaveRunning();
  DamageEvent(name);
  StartJobs();
  const Job job = Get(name);
  EXPECT_EQ(job.state(), Job::FAILED);
  EXPECT_EQ(ErrorReason(job), "FILE_CHANGED");
  EXPECT_THAT(job.error().message(), HasSubstr("The job's events cannot be read: the store"));
  AwaitState(Create("finish"), Job::SUCCEEDED);
}

TEST_F(JobsTest, PassesOverAQueuedJobThatCannotBeReadAndDeletesIt) {
  StartJobs();
  const std::string running = Create("progress wait");
  AwaitWord(running);
  const std::string unreadable = Create("finish");
  const std::string next = Create("finish");
  {
    soci::session sql(soci::sqlite3, "dbname=" + data_->database());
    sql << "UPDATE jobs SET message = '{' WHERE name = :name", soci::use(unreadable);
  }
  ASSERT_TRUE(jobs_->Cancel(running).ok());
  AwaitState(next, Job::SUCCEEDED);
  EXPECT_EQ(ReasonOf(jobs_->Cancel(unreadable).status()), v1::FILE_CHANGED);
  EXPECT_TRUE(jobs_->Delete(unreadable).ok());
  EXPECT_TRUE(absl::IsNotFound(jobs_->Delete(unreadable)));
}

TEST_F(JobsTest, ADeathEndsAJobWhoseEventsCannotBeRead) {
  StartJobs();
  const std::string name = Create("progress nap kill");
  AwaitWord(name);
  DamageEvent(name);
  const Job job = AwaitState(name, Job::FAILED);
  EXPECT_EQ(ErrorReason(job), "FILE_CHANGED");
  EXPECT_THAT(job.error().message(), HasSubstr("signal 9"));
  EXPECT_THAT(job.error().message(), HasSubstr("events cannot be read"));
}

TEST_F(JobsTest, EndsWhatAnEarlierServerWasCancelling) {
  const std::string name = LeaveRunning();
  Change(name, [](Job& job, auto& events) { EnterState(job, Job::CANCELLING, "", events); });
  StartJobs();
  EXPECT_EQ(Get(name).state(), Job::CANCELLED);
}

TEST_F(JobsTest, PausesWhatAnEarlierServerWasAskedToPause) {
  const std::string name = LeaveRunning();
  Change(name, [](Job& job, auto&) { job.set_pause_requested(true); });
  StartJobs();
  EXPECT_EQ(Get(name).state(), Job::PAUSED);
  EXPECT_FALSE(Get(name).pause_requested());
}

TEST_F(JobsTest, PublishesWhatAnEarlierServerDidNotWithoutATrainer) {
  const std::string name = LeaveRunning();
  Change(name, [](Job& job, auto&) { job.set_best_step(7); });
  options_.trainer_path = "/nonexistent/tasuki-trainer";
  StartJobs();
  EXPECT_EQ(AwaitState(name, Job::SUCCEEDED).model_version(), "models/m/versions/1");
}

TEST_F(JobsTest, TheSameRequestAgainIsTheSameJob) {
  StartJobs();
  v1::CreateTrainingJobRequest request = RequestOf("progress wait");
  request.set_request_id("0d7c3b8e-6f0d-4b52-9a3c-2f4f5f9d1e11");
  const Job first = jobs_->Create(request).value();
  EXPECT_EQ(jobs_->Create(request).value().name(), first.name());
  request.mutable_training_job()->set_display_name("finish");
  EXPECT_EQ(ReasonOf(jobs_->Create(request).status()), v1::REQUEST_ID_REUSED);
  EXPECT_EQ(store_->jobs().List({}, 0, "").value().rows.size(), 1);
}

TEST_F(JobsTest, UsesTheIdThatWasGivenOnce) {
  StartJobs();
  v1::CreateTrainingJobRequest request = RequestOf("finish");
  request.set_training_job_id("my-job");
  EXPECT_EQ(jobs_->Create(request).value().name(), "trainingJobs/my-job");
  EXPECT_EQ(ReasonOf(jobs_->Create(request).status()), v1::RESOURCE_EXISTS);
}

TEST_F(JobsTest, NamesEveryFaultOfARequestAndStoresNothing) {
  StartJobs();
  v1::CreateTrainingJobRequest request = RequestOf("finish");
  request.set_training_job_id("My Job");
  request.mutable_training_job()->set_model("m");
  request.mutable_training_job()->mutable_pretraining()->add_datasets("datasets/d-absent");
  const absl::Status status = jobs_->Create(request).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("training_job_id: \"My Job\""));
  EXPECT_THAT(std::string(status.message()), HasSubstr("model: \"m\""));
  EXPECT_THAT(std::string(status.message()), HasSubstr("datasets/d-absent does not exist"));
  EXPECT_THAT(store_->jobs().List({}, 0, "").value().rows, IsEmpty());
}

TEST_F(JobsTest, ValidateOnlyAnswersTheResolvedJobAndStoresNothing) {
  StartJobs();
  v1::CreateTrainingJobRequest request = RequestOf("finish");
  request.set_validate_only(true);
  request.mutable_training_job()->set_attempt(99);  // output only: ignored
  const Job job = jobs_->Create(request).value();
  EXPECT_EQ(job.pretraining().vocabulary_size(), 8000);
  EXPECT_EQ(job.attempt(), 0);
  EXPECT_THAT(store_->jobs().List({}, 0, "").value().rows, IsEmpty());
}

TEST_F(JobsTest, AnswersTheLastLinesThatTrainersPrinted) {
  StartJobs();
  const std::string name = Create("say:one bytes kill | say:two finish");
  AwaitState(name, Job::SUCCEEDED);
  EXPECT_THAT(jobs_->Log(name, 0).value(),
              ElementsAre("attempt 1", "one", "bad \xEF\xBF\xBD byte", "attempt 2", "two"));
  EXPECT_THAT(jobs_->Log(name, 1).value(), ElementsAre("two"));
  EXPECT_TRUE(absl::IsInvalidArgument(jobs_->Log(name, -1).status()));
  EXPECT_TRUE(absl::IsNotFound(jobs_->Log("trainingJobs/../../etc/passwd", 1).status()));
}

TEST_F(JobsTest, DeletesAnEndedJobWithItsDirectoryOnly) {
  StartJobs();
  const std::string ended = Create("finish");
  const std::string running = Create("progress wait");
  AwaitState(ended, Job::SUCCEEDED);
  AwaitWord(running);
  EXPECT_EQ(ReasonOf(jobs_->Delete(running)), v1::JOB_STATE);
  EXPECT_TRUE(ReadFile(data_->job_spec(running)).ok());
  EXPECT_TRUE(ReadFile(data_->job_spec(ended)).ok());
  ASSERT_TRUE(jobs_->Delete(ended).ok());
  EXPECT_TRUE(absl::IsNotFound(ListDirectory(data_->job(ended)).status()));
  EXPECT_TRUE(absl::IsNotFound(jobs_->Delete(ended)));
}

TEST_F(JobsTest, ShowsARunningJobInTheMetrics) {
  StartJobs();
  const std::string name = Create("progress wait");
  AwaitWord(name);
  EXPECT_THAT(metrics_.Text(), HasSubstr(absl::StrCat("job=\"", name, "\"")));
}

// ---- Estimates ----

TEST_F(JobsTest, EstimatesWithoutStoringAJob) {
  StartJobs();
  const auto estimate = Estimate(RequestOf("estimate"));
  ASSERT_TRUE(estimate.ok()) << estimate.status();
  EXPECT_EQ(estimate->steps(), 7);
  EXPECT_EQ(estimate->training_job().name(), "");
  EXPECT_EQ(estimate->training_job().pretraining().vocabulary_size(), 8000);
  EXPECT_THAT(store_->jobs().List({}, 0, "")->rows, IsEmpty());
  EXPECT_THAT(*ListDirectory(data_->aside()), IsEmpty());
}

TEST_F(JobsTest, AnswersWhyThereIsNoEstimate) {
  StartJobs();
  const auto failed = Estimate(RequestOf("fail"));
  EXPECT_EQ(failed.status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(ReasonOf(failed.status()), v1::NON_FINITE_LOSS);
  const absl::Status killed = Estimate(RequestOf("kill")).status();
  EXPECT_TRUE(absl::IsUnavailable(killed)) << killed;
  EXPECT_THAT(std::string(killed.message()), HasSubstr("it was ended by signal 9 (Killed)"));
  const absl::Status left = Estimate(RequestOf("exit:3")).status();
  EXPECT_TRUE(absl::IsUnavailable(left)) << left;
  EXPECT_THAT(std::string(left.message()), HasSubstr("it exited with code 3"));
  v1::EstimateTrainingJobRequest evaluation;
  evaluation.mutable_training_job()->mutable_evaluation();
  EXPECT_EQ(ReasonOf(jobs_->Estimate(evaluation, nullptr).status()), v1::FIELD_INVALID);
  v1::EstimateTrainingJobRequest bad = EstimateOf(RequestOf("estimate"));
  bad.mutable_training_job()->mutable_pretraining()->set_datasets(0, "datasets/d-absent");
  bad.mutable_training_job()->clear_model();
  const auto faults = jobs_->Estimate(bad, nullptr);
  EXPECT_EQ(ReasonOf(faults.status()), v1::FIELD_INVALID);
  EXPECT_THAT(std::string(faults.status().message()), HasSubstr("d-absent"));
}

TEST_F(JobsTest, ADrainEndsTheEstimateAndNoJob) {
  StartJobs();
  const std::string running = Create("progress wait");
  AwaitWord(running);
  absl::Status first;
  std::thread waiting([&] { first = Estimate(RequestOf("wait")).status(); });
  AwaitEstimate();
  jobs_->Drain();
  waiting.join();
  EXPECT_EQ(ReasonOf(first), v1::DRAINING) << first;
  EXPECT_EQ(ReasonOf(Estimate(RequestOf("estimate")).status()), v1::DRAINING);
  EXPECT_EQ(Get(running).state(), Job::RUNNING);
}

TEST_F(JobsTest, AnEstimateThatNobodyWaitsForEnds) {
  StartJobs();
  std::atomic<bool> gone = false;
  absl::Status first;
  std::thread waiting([&] {
    const auto cancelled = [&] { return gone.load(); };
    first = jobs_->Estimate(EstimateOf(RequestOf("deaf")), cancelled).status();
  });
  AwaitEstimate();
  gone = true;
  waiting.join();
  EXPECT_TRUE(absl::IsCancelled(first)) << first;
  EXPECT_TRUE(Estimate(RequestOf("estimate")).ok());
}

TEST_F(JobsTest, MakesOneEstimateAtATimeAndEndsItWhenTheServerStops) {
  StartJobs();
  absl::Status first;
  std::thread waiting([&] { first = Estimate(RequestOf("wait")).status(); });
  AwaitEstimate();
  const auto second = Estimate(RequestOf("estimate"));
  EXPECT_EQ(ReasonOf(second.status()), v1::QUEUE_FULL);
  jobs_->Stop();
  waiting.join();
  EXPECT_EQ(ReasonOf(first), v1::DRAINING) << first;
  EXPECT_EQ(ReasonOf(Estimate(RequestOf("estimate")).status()), v1::DRAINING);
}

}  // namespace
}  // namespace tasuki
