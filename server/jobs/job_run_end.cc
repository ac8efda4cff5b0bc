// How an attempt ends: JobRun's way from the trainer's last word, or its death, to the job's state.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "google/rpc/error_details.pb.h"
#include "model/errors/errors.h"
#include "model/errors/status_proto.h"
#include "server/jobs/job_run.h"
#include "server/jobs/trainer_log.h"
#include "server/store/job_state.h"
#include "spdlog/spdlog.h"

namespace tasuki {
namespace {

using Job = v1::TrainingJob;

constexpr int kLogLinesShown = 20;

// Why a job ends whose trainers die.
absl::Status TooManyDeaths(int deaths, const std::string& cause, bool out_of_memory,
                           const std::string& last_lines) {
  const std::string message = absl::StrCat(
      "The trainer died ", deaths, " times in a row without a new checkpoint; the last time ",
      cause, ". See GetTrainingJobLog.", last_lines);
  return out_of_memory ? MakeError(absl::StatusCode::kResourceExhausted, v1::OUT_OF_MEMORY, message)
                       : MakeError(absl::StatusCode::kInternal, v1::CRASH_LOOP, message);
}

bool HasReason(const google::rpc::Status& error, v1::ErrorReason reason) {
  google::rpc::ErrorInfo info;
  for (const auto& detail : error.details()) {
    if (detail.UnpackTo(&info) && info.reason() == v1::ErrorReason_Name(reason)) return true;
  }
  return false;
}

}  // namespace

void JobRun::Conclude() {
  spdlog::info("{}: the trainer of attempt {} is gone: {}", job_.name(), job_.attempt(),
               exit_.Describe());
  // Its last word counts, not how it went afterwards: the result or checkpoint was complete then.
  switch (last_event_.event_case()) {
    case internal::TrainerEvent::kFinished:
      context_.metrics.CountTrainerExit(Metrics::TrainerExit::kFinished);
      return ConcludeFinished(last_event_.finished());
    case internal::TrainerEvent::kFailed: {
      google::rpc::Status error = last_event_.failed();
      const bool out_of_memory = HasReason(error, v1::OUT_OF_MEMORY);
      context_.metrics.CountTrainerExit(out_of_memory ? Metrics::TrainerExit::kOutOfMemory
                                                      : Metrics::TrainerExit::kFailed);
      // Memory may be there the next time, however the lack of it showed.
      if (out_of_memory) {
        return ConcludeDeath(error.message(), /*out_of_memory=*/true);
      }
      error.mutable_message()->append(LastLines());
      return Fail(error);
    }
    case internal::TrainerEvent::kStopped:
      context_.metrics.CountTrainerExit(Metrics::TrainerExit::kStopped);
      return ConcludeStopped();
    default:
      break;
  }
  if (Killed()) {
    context_.metrics.CountTrainerExit(Metrics::TrainerExit::kKilled);
    return ConcludeStopped();
  }
  context_.metrics.CountTrainerExit(exit_.out_of_memory ? Metrics::TrainerExit::kOutOfMemory
                                                        : Metrics::TrainerExit::kCrashed);
  if (exit_.out_of_memory) {
    return ConcludeDeath(absl::StrCat(exit_.Describe(),
                                      "; a smaller batch_size or "
                                      "max_input_tokens takes less"),
                         /*out_of_memory=*/true);
  }
  // Whoever is killed within an event leaves half of one.
  ConcludeDeath(stream_status_.ok() ? exit_.Describe()
                                    : absl::StrCat("it was killed: ", stream_status_.message()),
                /*out_of_memory=*/false);
}

std::string JobRun::LastLines() const {
  const auto lines = LastLogLines(context_.data.job_log(job_.name()), kLogLinesShown);
  return lines.empty() ? ""
                       : absl::StrCat("\nThe trainer's last lines:\n", absl::StrJoin(lines, "\n"));
}

void JobRun::ConcludeFinished(const internal::TrainerEvent::Finished& finished) {
  const auto take_figures = [&finished](Job& job) {
    *job.mutable_evaluations() = finished.evaluations();
    *job.mutable_calibrations() = finished.calibrations();
  };
  if (job_.has_evaluation()) {  // nothing to publish
    return Leave(Job::SUCCEEDED, "", [&](Job& job, std::vector<v1::TrainingJobEvent>&) {
      if (job.state() == Job::RUNNING) take_figures(job);
    });
  }
  const absl::Status status =
      Change({Job::RUNNING}, [&](Job& job, std::vector<v1::TrainingJobEvent>& events) {
        take_figures(job);
        job.set_best_step(finished.best_step());
        job.mutable_progress()->set_phase(v1::Progress::PUBLISHING);
        v1::TrainingJobEvent& event = events.emplace_back();
        event.set_attempt(job.attempt());
        *event.mutable_progress() = job.progress();
        job_ = job;
      });
  if (status.ok()) return PublishResult();
  Leave(Job::QUEUED, status.message());  // it was cancelled, or the store cannot write
}

void JobRun::PublishResult() {
  const std::string result = context_.data.job_result(job_.name());
  auto version = context_.publish(job_, result);
  while (MayPass(version.status()) && !Asked(kCancel) && WaitForNextTry()) {
    spdlog::warn("{}: its result is not published yet: {}", job_.name(),
                 std::string(version.status().message()));
    version = context_.publish(job_, result);
  }
  if (MayPass(version.status())) {
    return Leave(Job::QUEUED, "The server stopped; the result is published when it is back.");
  }
  if (!version.ok()) {
    return Fail(StatusProto(Annotate(version.status(), "The result cannot be published: ")));
  }
  absl::StatusOr<v1::Deployment> deployment = v1::Deployment();
  if (job_.has_deploy_on_success() && !Asked(kCancel)) deployment = Deploy(*version);
  if (!deployment.ok()) {
    return Leave(Job::QUEUED, "The server stopped; the result is deployed when it is back.");
  }
  Leave(Job::SUCCEEDED, "", [&](Job& job, std::vector<v1::TrainingJobEvent>& events) {
    if (job.state() == Job::CANCELLING) {
      events.push_back(MessageEvent(
          job, v1::TrainingJobEvent::Message::WARNING,
          absl::StrCat("The result was published before the cancellation: it is ", *version, ".")));
      return;
    }
    job.set_model_version(*version);
    job.mutable_progress()->clear_remaining();
    if (!job.has_deploy_on_success()) return;
    *job.mutable_deployment() = *deployment;
    const auto severity = deployment->deployed() ? v1::TrainingJobEvent::Message::INFO
                                                 : v1::TrainingJobEvent::Message::WARNING;
    events.push_back(
        MessageEvent(job, severity,
                     deployment->deployed()
                         ? absl::StrCat(AliasOf(job), " is ", *version, ".")
                         : absl::StrCat(*version, " is not deployed: ", deployment->reason())));
  });
}

void JobRun::ConcludeStopped() {
  std::string reason;
  if (Asked(kStop)) reason = "The server stopped.";
  if (!Asked(kPause | kCancel | kStop)) reason = "The trainer was told to stop by somebody else.";
  if (last_event_.event_case() == internal::TrainerEvent::EVENT_NOT_SET && Killed()) {
    absl::StrAppend(&reason, reason.empty() ? "" : " ", "The trainer did not stop within ",
                    absl::FormatDuration(context_.options.stop_grace),
                    " and was killed; what followed its newest checkpoint is done again.");
  }
  Leave(Job::QUEUED, reason);
}

void JobRun::ConcludeDeath(const std::string& cause, bool out_of_memory) {
  if (Asked(kCancel | kStop)) return ConcludeStopped();
  absl::StatusOr<JobHistory> history;
  do {
    auto job = context_.store.jobs().Get(job_.name());
    history = job.ok() ? ReadJobHistory(context_.store.jobs(), *job) : job.status();
  } while (MayPass(history.status()) && WaitForNextTry("read_jobs"));
  if (MayPass(history.status())) return Leave(Job::QUEUED, history.status().message());
  if (!history.ok()) {
    return Fail(
        StatusProto(Annotate(history.status(), absl::StrCat("The trainer died: ", cause, ". "))));
  }

  const int deaths = history->deaths + 1;
  const std::string lines = LastLines();
  const Apply tell = [&](Job& job, std::vector<v1::TrainingJobEvent>& events) {
    events.push_back(MessageEvent(job, v1::TrainingJobEvent::Message::ERROR,
                                  absl::StrCat("The trainer died: ", cause, ".",
                                               lines.empty() ? " It printed nothing." : lines)));
  };
  if (deaths >= kMaxDeaths) {
    return Fail(StatusProto(TooManyDeaths(deaths, cause, out_of_memory, lines)), tell);
  }
  const std::string reason =
      absl::StrCat("The trainer died", out_of_memory ? " for lack of memory: " : ": ", cause,
                   ". The job goes on from its newest checkpoint; it may die ", kMaxDeaths - deaths,
                   " times more without a new one.");
  Leave(Job::QUEUED, reason, tell,
        out_of_memory ? StateChanged::TRAINER_OUT_OF_MEMORY : StateChanged::TRAINER_DIED);
  Wait(context_.options.death_pause * deaths * deaths);
}

void JobRun::Fail(google::rpc::Status error, const Apply& apply) {
  if (HasReason(error, v1::DISK_FULL)) {
    // In its first line: others may be those that the trainer printed.
    error.mutable_message()->insert(
        std::min(error.message().find('\n'), error.message().size()),
        absl::StrCat(" Then `tasuki job retry ", absl::StripPrefix(job_.name(), "trainingJobs/"),
                     "` goes on from its newest checkpoint."));
  }
  if (HasReason(error, v1::NON_FINITE_LOSS)) context_.metrics.CountNonFiniteLoss();
  const std::string reason = error.message().substr(0, error.message().find('\n'));
  Leave(Job::FAILED, reason, [&](Job& job, std::vector<v1::TrainingJobEvent>& events) {
    if (apply) apply(job, events);
    if (job.state() == Job::RUNNING) *job.mutable_error() = error;
  });
}

void JobRun::Leave(Job::State state, absl::string_view reason, const Apply& apply,
                   StateChanged::Cause cause) {
  const absl::Status status = Change(
      {Job::RUNNING, Job::CANCELLING}, [&](Job& job, std::vector<v1::TrainingJobEvent>& events) {
        if (apply) apply(job, events);
        if (job.state() == Job::CANCELLING) return EnterState(job, Job::CANCELLED, "", events);
        const bool pauses = state == Job::QUEUED && job.pause_requested();
        EnterState(job, pauses ? Job::PAUSED : state, reason, events, cause);
      });
  if (status.ok()) return;
  // The next start of the server finds it RUNNING and queues it.
  spdlog::error("{} could not be left in {}: {}", job_.name(), Job::State_Name(state),
                std::string(status.message()));
}

}  // namespace tasuki
