#include "server/jobs/jobs.h"

#include <algorithm>
#include <fstream>
#include <memory>
#include <set>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "model/errors/errors.h"
#include "model/errors/status_proto.h"
#include "model/files/durable.h"
#include "server/jobs/job_history.h"
#include "server/jobs/job_request.h"
#include "server/jobs/job_run.h"
#include "server/jobs/trainer_log.h"
#include "server/store/job_state.h"
#include "spdlog/spdlog.h"

namespace tasuki {
namespace {

using Job = v1::TrainingJob;
using Events = std::vector<v1::TrainingJobEvent>;

constexpr absl::Duration kClaimInterval = absl::Seconds(1);  // while the store does not answer
constexpr int kDefaultLogLines = 100;
constexpr int kMaxLogLines = 10'000;
constexpr int64_t kPieceBytes = int64_t{1} << 20;  // of predictions

// Reason of the state in which a server puts a job that an earlier server ran to its end.
std::string ServerDied(int deaths) {
  return absl::StrCat(
      "The server was started anew; the job goes on from its newest checkpoint.",
      deaths < 2 ? ""
                 : absl::StrCat(" It ended ", deaths,
                                " times in a row without a new one: should lack of memory be why, "
                                "the next trainer begins with half as much at once."));
}

absl::Status TooManyServerDeaths(int deaths) {
  return MakeError(
      absl::StatusCode::kInternal, v1::CRASH_LOOP,
      absl::StrCat("The server ended ", deaths,
                   " times in a row without a new checkpoint while it ran this job. If the system "
                   "killed it for lack of memory, a smaller batch_size or max_input_tokens takes "
                   "less."));
}

// Of a RUNNING job, whatever becomes of its trainer.
void Fail(Job& job, const absl::Status& error, Events& events) {
  *job.mutable_error() = StatusProto(error);
  EnterState(job, Job::FAILED, error.message(), events);
}

}  // namespace

class Jobs::Impl {
 public:
  Impl(Store& store, const DataDirectory& data, const JobsOptions& options, Metrics& metrics,
       Publish publish, Deploy deploy)
      : data_(data), options_(options), context_{store,
                                                 data_,
                                                 options_,
                                                 metrics,
                                                 std::move(publish),
                                                 std::move(deploy),
                                                 [](const std::string&) {}} {}

  absl::Status Start();
  void Drain();
  void Stop();
  void SetListener(Listener listener) { context_.notify = std::move(listener); }

  absl::StatusOr<Job> Create(const v1::CreateTrainingJobRequest& request);
  absl::StatusOr<v1::EstimateTrainingJobResponse> Estimate(
      const v1::EstimateTrainingJobRequest& request, const std::function<bool()>& cancelled);
  absl::StatusOr<Job> Cancel(const std::string& name);
  absl::StatusOr<Job> Pause(const std::string& name);
  absl::StatusOr<Job> Resume(const std::string& name);
  absl::StatusOr<Job> Finish(const std::string& name);
  absl::StatusOr<Job> Retry(const std::string& name);
  absl::StatusOr<std::vector<std::string>> Log(const std::string& name, int line_count);
  absl::Status Delete(const std::string& name);
  absl::Status ReadPredictions(const std::string& name, const UsePredictions& use);

 private:
  JobTable& table() { return context_.store.jobs(); }
  absl::Status TakeUp(const Job& job);
  // The scheduler's thread.
  void Schedule();
  // The next job to run; nullopt when the server stops.
  std::optional<Job> AwaitJob();
  void WakeScheduler();
  // Passes a wish to the job's run, if it has one. A run that begins later reads it from the store.
  void Ask(const std::string& name, JobRun::Request request);
  absl::StatusOr<Job> Change(const std::string& name, const JobChange& change);

  // Constant after Start.
  const DataDirectory data_;
  const JobsOptions options_;
  JobContext context_;

  absl::Mutex mutex_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool work_ ABSL_GUARDED_BY(mutex_) = true;  // perhaps a job is queued
  std::shared_ptr<JobRun> run_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<JobRun> estimate_ ABSL_GUARDED_BY(mutex_);  // of a job that nobody stored

  std::set<std::string> passed_over_;  // of the scheduler's thread: said already
  std::thread scheduler_;
};

absl::Status Jobs::Impl::Start() {
  auto left = table().InStates({Job::RUNNING, Job::CANCELLING});
  if (!left.ok()) return left.status();
  for (const Job& job : *left) {
    if (absl::Status status = TakeUp(job); !status.ok()) return status;
  }
  scheduler_ = std::thread([this] { Schedule(); });
  return absl::OkStatus();
}

absl::Status Jobs::Impl::TakeUp(const Job& job) {
  spdlog::info("{}: an earlier server left it {}", job.name(), Job::State_Name(job.state()));
  const auto history = ReadJobHistory(table(), job);
  const bool readable = history.ok();
  if (!readable && !absl::IsDataLoss(history.status())) return history.status();
  if (!readable) spdlog::error("{}: {}", job.name(), std::string(history.status().message()));
  const int deaths = readable ? history->server_deaths + 1 : 0;
  return Change(job.name(), {.expected = {Job::RUNNING, Job::CANCELLING},
                             .apply =
                                 [&](Job& job, Events& events) {
                                   if (job.state() == Job::CANCELLING) {
                                     EnterState(job, Job::CANCELLED, "", events);
                                   } else if (!readable) {
                                     // One job must not keep the server from starting.
                                     Fail(job, history.status(), events);
                                   } else if (job.pause_requested()) {
                                     EnterState(job, Job::PAUSED, ServerDied(deaths), events,
                                                StateChanged::SERVER_DIED);
                                   } else if (deaths >= kMaxServerDeaths) {
                                     Fail(job, TooManyServerDeaths(deaths), events);
                                   } else {
                                     EnterState(job, Job::QUEUED, ServerDied(deaths), events,
                                                StateChanged::SERVER_DIED);
                                   }
                                 }})
      .status();
}

void Jobs::Impl::Drain() {
  std::shared_ptr<JobRun> estimate;
  {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
    estimate = estimate_;
  }
  if (estimate != nullptr) estimate->Ask(JobRun::kStop);
}

void Jobs::Impl::Stop() {
  Drain();
  std::shared_ptr<JobRun> run;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    run = run_;
  }
  if (run != nullptr) run->Ask(JobRun::kStop);
  if (scheduler_.joinable()) scheduler_.join();
}

void Jobs::Impl::Schedule() {
  while (std::optional<Job> job = AwaitJob()) {
    auto run = std::make_shared<JobRun>(context_, *std::move(job));
    bool stopping;
    {
      absl::MutexLock lock(&mutex_);
      run_ = run;
      stopping = stopping_;
    }
    if (stopping) run->Ask(JobRun::kStop);
    context_.notify(run->job_name());
    run->Run();
    absl::MutexLock lock(&mutex_);
    run_ = nullptr;
  }
}

std::optional<Job> Jobs::Impl::AwaitJob() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) return std::nullopt;
      work_ = false;
    }
    std::vector<Job> unreadable;
    auto job = table().ClaimOldestQueued(&unreadable);
    for (const Job& passed : unreadable) {
      if (passed_over_.insert(passed.name()).second) {
        spdlog::error("{} cannot run: {}", passed.name(), passed.error().message());
      }
    }
    if (job.ok() && job->has_value()) return *std::move(job);
    const auto awake = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return work_ || stopping_; };
    absl::MutexLock lock(&mutex_);
    if (job.ok()) {
      mutex_.Await(absl::Condition(&awake));
    } else {
      spdlog::warn("No job can be claimed: {}", std::string(job.status().message()));
      mutex_.AwaitWithTimeout(absl::Condition(&awake), kClaimInterval);
    }
  }
}

void Jobs::Impl::WakeScheduler() {
  absl::MutexLock lock(&mutex_);
  work_ = true;
}

void Jobs::Impl::Ask(const std::string& name, JobRun::Request request) {
  std::shared_ptr<JobRun> run;
  {
    absl::MutexLock lock(&mutex_);
    run = run_;
  }
  if (run != nullptr && run->job_name() == name) run->Ask(request);
}

absl::StatusOr<Job> Jobs::Impl::Change(const std::string& name, const JobChange& change) {
  auto job = table().Change(name, change);
  if (job.ok()) context_.notify(name);
  return job;
}

absl::StatusOr<Job> Jobs::Impl::Create(const v1::CreateTrainingJobRequest& request) {
  const std::string digest = DigestOf(request);
  if (!request.request_id().empty() && !request.validate_only()) {
    auto known = table().FindByRequestId(request.request_id(), digest);
    if (!known.ok()) return known.status();
    if (known->has_value()) return **std::move(known);
  }

  auto job = MakeJob(context_.store, data_, options_.trains_in_bf16, request);
  if (!job.ok()) return job.status();
  if (request.validate_only()) return job;
  auto created =
      table().Insert(*job, request.request_id(), digest, StateEvent(*job, Job::QUEUED, ""));
  if (!created.ok()) return created.status();
  context_.notify(created->name());
  WakeScheduler();
  return created;
}

absl::StatusOr<v1::EstimateTrainingJobResponse> Jobs::Impl::Estimate(
    const v1::EstimateTrainingJobRequest& request, const std::function<bool()>& cancelled) {
  if (request.training_job().has_evaluation()) {
    Faults faults;
    faults.Add("training_job.evaluation",
               "has no steps; fine-tuning and pre-training are estimated");
    return faults.ToStatus();
  }
  v1::CreateTrainingJobRequest create;
  *create.mutable_training_job() = request.training_job();
  auto job = MakeJob(context_.store, data_, options_.trains_in_bf16, create);
  if (!job.ok()) return job.status();
  auto run = std::make_shared<JobRun>(context_, *std::move(job));
  {
    absl::MutexLock lock(&mutex_);
    if (draining_) return DrainingError();
    if (estimate_ != nullptr) {
      return MakeError(absl::StatusCode::kResourceExhausted, v1::QUEUE_FULL,
                       "another estimate is being made; try again when it is done");
    }
    estimate_ = run;
  }
  const std::string directory = data_.estimate();
  absl::Status removed = RemoveAll(directory);
  auto estimate = removed.ok() ? run->Estimate(directory, cancelled) : removed;
  RemoveAll(directory).IgnoreError();
  if (estimate.ok()) {
    estimate->mutable_training_job()->clear_name();
    estimate->mutable_training_job()->clear_state();
  }
  absl::MutexLock lock(&mutex_);
  estimate_ = nullptr;
  return estimate;
}

absl::StatusOr<Job> Jobs::Impl::Cancel(const std::string& name) {
  auto job = Change(
      name,
      {.expected = {Job::QUEUED, Job::PAUSED, Job::RUNNING}, .apply = [](Job& job, Events& events) {
         const bool running = job.state() == Job::RUNNING;
         EnterState(job, running ? Job::CANCELLING : Job::CANCELLED, "", events);
       }});
  if (ReasonOf(job.status()) == v1::JOB_STATE) return table().Get(name);
  if (job.ok() && job->state() == Job::CANCELLING) Ask(name, JobRun::kCancel);
  return job;
}

absl::StatusOr<Job> Jobs::Impl::Pause(const std::string& name) {
  auto job = table().Get(name);
  if (!job.ok() || job->pause_requested()) return job;  // it may have been this very call
  return Change(name, {.expected = {Job::QUEUED, Job::PAUSED, Job::RUNNING},
                       .apply = [&](Job& job, Events& events) {
                         if (job.state() == Job::RUNNING) {
                           job.set_pause_requested(true);
                           events.push_back(MessageEvent(
                               job, v1::TrainingJobEvent::Message::INFO,
                               job.has_evaluation()
                                   ? "A pause was asked for; the trainer stops, and the "
                                     "evaluation begins anew once it is resumed."
                                   : "A pause was asked for; the trainer writes a checkpoint and "
                                     "stops."));
                           // Within the transaction: after it there may be another run.
                           Ask(name, JobRun::kPause);
                         } else if (job.state() == Job::QUEUED) {
                           EnterState(job, Job::PAUSED, "", events);
                         }
                       }});
}

absl::StatusOr<Job> Jobs::Impl::Resume(const std::string& name) {
  auto job = Change(name, {.expected = {Job::PAUSED}, .apply = [](Job& job, Events& events) {
                             EnterState(job, Job::QUEUED, "", events);
                           }});
  if (job.ok()) WakeScheduler();
  if (ReasonOf(job.status()) != v1::JOB_STATE) return job;
  // It may have been resumed by this very call, which came twice. A job that is about to be PAUSED
  // is another matter.
  auto present = table().Get(name);
  if (!present.ok() || present->state() == Job::QUEUED) return present;
  if (present->state() != Job::RUNNING) return job;
  if (!present->pause_requested()) return present;
  return MakeError(absl::StatusCode::kFailedPrecondition, v1::JOB_STATE,
                   absl::StrCat(name, " was asked to pause and is not PAUSED yet"));
}

absl::StatusOr<Job> Jobs::Impl::Finish(const std::string& name) {
  auto job = table().Get(name);
  if (!job.ok()) return job;
  if (job->has_evaluation()) {
    return MakeError(
        absl::StatusCode::kFailedPrecondition, v1::JOB_STATE,
        absl::StrCat(name, " is an evaluation and has no training to finish; cancel it"));
  }
  const bool goes_on =
      job->state() == Job::QUEUED || job->state() == Job::PAUSED || job->state() == Job::RUNNING;
  if (goes_on && job->finish_requested()) return job;  // it may have been this very call
  job = Change(name, {.expected = {Job::QUEUED, Job::PAUSED, Job::RUNNING},
                      .apply = [](Job& job, Events& events) {
                        job.set_finish_requested(true);
                        events.push_back(MessageEvent(
                            job, v1::TrainingJobEvent::Message::INFO,
                            "It was asked to stop training and to publish the best so far."));
                      }});
  if (job.ok() && job->state() == Job::RUNNING) Ask(name, JobRun::kFinish);
  return job;
}

absl::StatusOr<Job> Jobs::Impl::Retry(const std::string& name) {
  auto job = Change(name, {.expected = {Job::FAILED}, .apply = [](Job& job, Events& events) {
                             job.clear_error();
                             job.clear_end_time();
                             // Should a result be there, the trainer finds it, and says so again.
                             job.clear_best_step();
                             job.clear_evaluations();
                             job.clear_calibrations();
                             EnterState(job, Job::QUEUED,
                                        "It is tried again; it goes on from its newest checkpoint.",
                                        events, StateChanged::RETRIED);
                           }});
  if (job.ok()) WakeScheduler();
  if (ReasonOf(job.status()) != v1::JOB_STATE) return job;
  auto present = table().Get(name);  // it may have been queued by this very call
  if (!present.ok() || present->state() == Job::QUEUED || present->state() == Job::RUNNING) {
    return present;
  }
  return job;
}

absl::StatusOr<std::vector<std::string>> Jobs::Impl::Log(const std::string& name, int line_count) {
  if (line_count < 0) {
    Faults faults;
    faults.Add("line_count", absl::StrCat(line_count, " is below 0"));
    return faults.ToStatus();
  }
  auto job = table().Get(name);
  if (!job.ok()) return job.status();
  const int count = line_count == 0 ? kDefaultLogLines : std::min(line_count, kMaxLogLines);
  return LastLogLines(data_.job_log(name), count);
}

absl::Status Jobs::Impl::Delete(const std::string& name) {
  auto job = table().Get(name);
  if (!job.ok() && !absl::IsDataLoss(job.status())) return job.status();
  // The directory first: a job that has ended does not change, and if the server ends in between,
  // the row is still there to be deleted again. Of a job that has not ended, or cannot be read, the
  // table tells.
  if (job.ok() && HasEnded(job->state())) {
    if (absl::Status status = RemoveAll(data_.job(name)); !status.ok()) return status;
  }
  if (absl::Status status = table().Delete(name); !status.ok()) return status;
  context_.notify(name);
  return job.ok() ? absl::OkStatus() : RemoveAll(data_.job(name));
}

absl::Status Jobs::Impl::ReadPredictions(const std::string& name, const UsePredictions& use) {
  const auto job = table().Get(name);
  if (!job.ok()) return job.status();
  const bool kept = job->evaluation().write_predictions();
  if (!kept || job->state() != Job::SUCCEEDED) {
    return MakeError(absl::StatusCode::kFailedPrecondition, v1::JOB_STATE,
                     kept ? absl::StrCat(name, " is ", Job::State_Name(job->state()),
                                         "; its predictions are there once it is SUCCEEDED.")
                          : absl::StrCat(name,
                                         " keeps no predictions: only evaluations with "
                                         "write_predictions do."));
  }
  const std::string path = data_.job_predictions(name);
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const int64_t size = file ? static_cast<int64_t>(file.tellg()) : -1;
  file.seekg(0);
  int64_t left = size;
  while (file && left > 0) {
    std::string piece(std::min<int64_t>(left, kPieceBytes), '\0');
    if (!file.read(piece.data(), static_cast<std::streamsize>(piece.size()))) break;
    left -= static_cast<int64_t>(piece.size());
    if (!use(size, std::move(piece))) return absl::CancelledError("The call was cancelled.");
  }
  if (left == 0) return absl::OkStatus();
  return MakeError(absl::StatusCode::kDataLoss, v1::FILE_CHANGED,
                   absl::StrCat("The predictions of ", name, " cannot be read."));
}

Jobs::Jobs(Store& store, const DataDirectory& data, const JobsOptions& options, Metrics& metrics,
           Publish publish, Deploy deploy)
    : impl_(std::make_unique<Impl>(store, data, options, metrics, std::move(publish),
                                   std::move(deploy))) {}

Jobs::~Jobs() { Stop(); }

absl::Status Jobs::Start() { return impl_->Start(); }
void Jobs::Drain() { impl_->Drain(); }
void Jobs::Stop() { impl_->Stop(); }
void Jobs::SetListener(Listener listener) { impl_->SetListener(std::move(listener)); }

absl::StatusOr<Job> Jobs::Create(const v1::CreateTrainingJobRequest& request) {
  return impl_->Create(request);
}
absl::StatusOr<v1::EstimateTrainingJobResponse> Jobs::Estimate(
    const v1::EstimateTrainingJobRequest& request, const std::function<bool()>& cancelled) {
  return impl_->Estimate(request, cancelled);
}
absl::StatusOr<Job> Jobs::Cancel(const std::string& name) { return impl_->Cancel(name); }
absl::StatusOr<Job> Jobs::Pause(const std::string& name) { return impl_->Pause(name); }
absl::StatusOr<Job> Jobs::Resume(const std::string& name) { return impl_->Resume(name); }
absl::StatusOr<Job> Jobs::Finish(const std::string& name) { return impl_->Finish(name); }
absl::StatusOr<Job> Jobs::Retry(const std::string& name) { return impl_->Retry(name); }
absl::StatusOr<std::vector<std::string>> Jobs::Log(const std::string& name, int line_count) {
  return impl_->Log(name, line_count);
}
absl::Status Jobs::Delete(const std::string& name) { return impl_->Delete(name); }
absl::Status Jobs::ReadPredictions(const std::string& name, const UsePredictions& use) {
  return impl_->ReadPredictions(name, use);
}

}  // namespace tasuki
