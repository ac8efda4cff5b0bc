#include "server/jobs/job_run.h"

#include <algorithm>
#include <cmath>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "google/protobuf/util/time_util.h"
#include "model/errors/errors.h"
#include "model/errors/status_proto.h"
#include "model/files/durable.h"
#include "server/store/dataset_table.h"
#include "server/store/job_state.h"
#include "server/store/model_table.h"
#include "spdlog/spdlog.h"

namespace tasuki {
namespace {

using google::protobuf::util::TimeUtil;

using Job = v1::TrainingJob;

constexpr absl::Duration kTryInterval = absl::Seconds(1);
constexpr absl::Duration kCallerInterval = absl::Milliseconds(100);  // looks at who waits

// About how many examples a step has.
int64_t BatchSize(const Job& job, const v1::Progress& progress) {
  const v1::Recipe& recipe =
      job.has_pretraining() ? job.pretraining().recipe() : job.fine_tuning().recipe();
  const int64_t batches = std::max(1, recipe.gradient_accumulation_steps());
  if (recipe.batch_tokens() == 0) return batches * recipe.batch_size();
  if (!(progress.tokens_per_second() > 0)) return 0;
  return std::llround(static_cast<double>(batches * recipe.batch_tokens()) *
                      progress.examples_per_second() / progress.tokens_per_second());
}

internal::TrainerCommand::Action ActionOf(JobRun::Request request) {
  switch (request) {
    case JobRun::kCancel:
      return internal::TrainerCommand::ABANDON;
    case JobRun::kFinish:
      return internal::TrainerCommand::FINISH;
    default:
      return internal::TrainerCommand::STOP;
  }
}

Metrics::AttemptCause CauseOf(const Job& job, const JobHistory& history) {
  if (job.attempt() <= 1) return Metrics::AttemptCause::kFirst;
  switch (history.queued_by) {
    case StateChanged::TRAINER_OUT_OF_MEMORY:
      return Metrics::AttemptCause::kOutOfMemory;
    case StateChanged::TRAINER_DIED:
      return Metrics::AttemptCause::kCrash;
    case StateChanged::SERVER_DIED:
      return Metrics::AttemptCause::kServerRestart;
    default:
      return Metrics::AttemptCause::kResumed;
  }
}

}  // namespace

JobRun::JobRun(const JobContext& context, Job job) : context_(context), job_(std::move(job)) {}

void JobRun::Run() {
  absl::Status status = Prepare();
  while (MayPass(status) && !Asked(kPause | kCancel) && WaitForNextTry()) {
    spdlog::warn("{}: it cannot begin yet: {}", job_.name(), std::string(status.message()));
    status = Prepare();
  }
  if (MayPass(status)) return Leave(Job::QUEUED, status.message());
  if (!status.ok()) return Fail(StatusProto(status));
  // An earlier attempt finished and the server ended before its result was published.
  if (job_.best_step() > 0) return PublishResult();
  if (Asked(kPause | kCancel | kStop)) return ConcludeStopped();

  auto process = StartTrainer("--spec", context_.data.job_spec(job_.name()),
                              context_.data.job_log(job_.name()));
  if (!process.ok()) {
    return ConcludeDeath(std::string(process.status().message()), /*out_of_memory=*/false);
  }
  std::thread reader([&] { ReadEvents(**process); });
  WatchOver(**process);
  reader.join();
  Conclude();
}

void JobRun::Ask(Request request) {
  absl::MutexLock lock(&mutex_);
  if ((asked_ & request) != 0) return;
  asked_ |= request;
  if (request != kFinish) {
    kill_at_ = std::min(kill_at_, absl::Now() + context_.options.stop_grace);
  }
  if (process_ != nullptr) process_->Send(ActionOf(request));
  if (comparison_ != nullptr && request != kFinish) comparison_->Ask(kStop);
}

bool JobRun::Asked(int requests) const {
  absl::MutexLock lock(&mutex_);
  return (asked_ & requests) != 0;
}

bool JobRun::Killed() const {
  absl::MutexLock lock(&mutex_);
  return killed_;
}

absl::Status JobRun::Prepare() {
  auto job = context_.store.jobs().Get(job_.name());
  if (!job.ok()) return job.status();
  auto history = ReadJobHistory(context_.store.jobs(), *job);
  if (!history.ok()) return history.status();
  job_ = *std::move(job);
  if (job_.state() == Job::CANCELLING) Ask(kCancel);
  if (job_.pause_requested()) Ask(kPause);
  if (job_.finish_requested()) Ask(kFinish);

  auto spec = MakeSpec(history->lacked_memory());
  if (!spec.ok()) return spec.status();
  absl::Status status = MakeDirectories(context_.data.job(job_.name()));
  if (status.ok()) status = WriteJson(context_.data.job_spec(job_.name()), *spec);
  if (!status.ok()) return status;
  context_.metrics.CountAttempt(CauseOf(job_, *history));
  metrics_ =
      context_.metrics.ForJob(job_.name(), job_.progress().step(), job_.progress().total_steps());
  return absl::OkStatus();
}

absl::StatusOr<internal::TrainerSpec> JobRun::MakeSpec(bool out_of_memory) const {
  internal::TrainerSpec spec;
  *spec.mutable_job() = job_;
  spec.set_attempt(job_.attempt());
  spec.set_job_dir(context_.data.job(job_.name()));
  spec.set_threads(context_.options.training_threads);
  spec.set_kernels(context_.options.kernels);
  spec.set_idle_priority(context_.options.idle_priority);
  spec.set_device(context_.options.device);
  spec.set_out_of_memory(out_of_memory);
  const std::string base = job_.has_fine_tuning()  ? job_.fine_tuning().base_model_version()
                           : job_.has_evaluation() ? job_.evaluation().model_version()
                                                   : "";
  if (!base.empty()) {
    const auto version = context_.store.models().GetVersion(base);
    if (!version.ok()) return version.status();
    spec.set_base_dir(context_.data.model_version(base));
    *spec.mutable_base_files() = version->files();
  }
  for (const std::string& name : DatasetsOf(job_)) {
    const auto dataset = context_.store.datasets().Get(name);
    if (absl::IsNotFound(dataset.status())) {
      return MakeError(absl::StatusCode::kDataLoss, v1::FILE_CHANGED,
                       absl::StrCat(name, " was deleted before the job could use it."));
    }
    if (!dataset.ok()) return dataset.status();
    auto& file = *spec.add_datasets();
    file.set_name(name);
    file.set_path(context_.data.dataset(name));
    file.set_sha256(dataset->sha256());
  }
  return spec;
}

absl::StatusOr<std::unique_ptr<TrainerProcess>> JobRun::StartTrainer(const std::string& flag,
                                                                     const std::string& spec,
                                                                     const std::string& log) const {
  const std::string threads = absl::StrCat(context_.options.training_threads);
  TrainerProcess::Options options;
  options.program = context_.options.trainer_path;
  options.arguments = {flag, spec};
  options.log_path = log;
  options.vmstat = context_.options.vmstat;
  // libgomp reads these before main. Threads that wait must not take the cores from serving.
  options.environment = {{"OMP_NUM_THREADS", threads},
                         {"MKL_NUM_THREADS", threads},
                         {"OMP_WAIT_POLICY", "PASSIVE"},
                         {"OMP_DYNAMIC", "FALSE"},
                         // Gradients are as large as the weights and come anew with every step:
                         // their memory stays with the process, on huge pages, instead of being
                         // cleared by the system each time.
                         {"GLIBC_TUNABLES",
                          "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776:"
                          "glibc.malloc.hugetlb=1"}};
  return TrainerProcess::Start(options);
}

absl::Status JobRun::RunAside(const std::string& flag, const std::string& directory,
                              const std::function<bool()>& cancelled) {
  auto spec = MakeSpec(/*out_of_memory=*/false);
  if (!spec.ok()) return spec.status();
  spec->set_job_dir(directory);
  absl::Status status = MakeDirectories(directory);
  if (status.ok()) status = WriteJson(DataDirectory::spec_in(directory), *spec);
  if (!status.ok()) return status;
  auto process =
      StartTrainer(flag, DataDirectory::spec_in(directory), DataDirectory::log_in(directory));
  if (!process.ok()) return process.status();
  std::thread reader([&] { ReadEvents(**process); });
  WatchOver(**process, cancelled);
  reader.join();
  return absl::OkStatus();
}

void JobRun::WatchOver(TrainerProcess& process, const std::function<bool()>& cancelled) {
  {
    absl::MutexLock lock(&mutex_);
    process_ = &process;
    // What was asked since Prepare looked.
    for (const Request request : {kFinish, kPause, kStop, kCancel}) {
      if ((asked_ & request) != 0) process.Send(ActionOf(request));
    }
  }
  bool look = cancelled != nullptr;
  while (true) {
    const bool nobody_waits = look && cancelled();
    if (nobody_waits) look = false;
    {
      absl::MutexLock lock(&mutex_);
      if (nobody_waits) kill_at_ = absl::Now();
      const auto over_or_due_changed = [this, due = kill_at_]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
        return ended_ || kill_at_ != due;
      };
      const absl::Time until = look ? std::min(kill_at_, absl::Now() + kCallerInterval) : kill_at_;
      mutex_.AwaitWithDeadline(absl::Condition(&over_or_due_changed), until);
      if (ended_) {
        process_ = nullptr;
        return;
      }
      if (absl::Now() < kill_at_) continue;
      killed_ = true;
      kill_at_ = absl::InfiniteFuture();
    }
    process.Kill();
  }
}

void JobRun::ReadEvents(TrainerProcess& process) {
  while (true) {
    auto event = process.ReadEvent();
    if (!event.ok()) {
      stream_status_ = event.status();
      process.Kill();
      break;
    }
    if (!event->has_value()) break;
    TakeEvent(**event);
  }
  exit_ = process.Wait();
  absl::MutexLock lock(&mutex_);
  ended_ = true;
}

void JobRun::TakeEvent(const internal::TrainerEvent& event) {
  v1::TrainingJobEvent stored;
  absl::Status status;
  switch (event.event_case()) {
    case internal::TrainerEvent::kProgress:
      if (recorded_) TakeProgress(event.progress());
      return;
    case internal::TrainerEvent::kEvaluation: {
      if (!recorded_) return;
      const v1::Evaluation& evaluation = event.evaluation();
      *stored.mutable_evaluation() = evaluation;
      status = Append(stored);
      if (evaluation.split() != v1::Evaluation::VALID) break;
      if (evaluation.method() != v1::Evaluation::LABEL) break;
      metrics_->SetScore(evaluation.task(), "loss", evaluation.loss());
      metrics_->SetScore(evaluation.task(), "accuracy", evaluation.accuracy());
      metrics_->SetScore(evaluation.task(), "macro_f1", evaluation.macro_f1());
      break;
    }
    case internal::TrainerEvent::kCheckpointWritten:
      *stored.mutable_checkpoint_written() = event.checkpoint_written();
      status = Append(stored);
      metrics_->CountCheckpoint(absl::Milliseconds(
          TimeUtil::DurationToMilliseconds(event.checkpoint_written().write_time())));
      break;
    case internal::TrainerEvent::kCheckpointTrouble:
      if (event.checkpoint_trouble().passed_over()) {
        context_.metrics.CountCheckpointFallback();
      } else {
        context_.metrics.CountCheckpointError();
      }
      return;
    case internal::TrainerEvent::kMessage:
      if (!recorded_) return;
      *stored.mutable_message() = event.message();
      status = Append(stored);
      break;
    case internal::TrainerEvent::kFinished:
    case internal::TrainerEvent::kStopped:
    case internal::TrainerEvent::kFailed:
    case internal::TrainerEvent::kEstimate: {
      last_event_ = event;
      absl::MutexLock lock(&mutex_);
      kill_at_ = std::min(kill_at_, absl::Now() + context_.options.stop_grace);
      return;
    }
    case internal::TrainerEvent::EVENT_NOT_SET:
      return;
  }
  if (status.ok()) return;
  // The job is another's now, or gone: this trainer works for nothing.
  spdlog::error("{}: an event of attempt {} was not stored: {}", job_.name(), job_.attempt(),
                std::string(status.message()));
  if (absl::IsAborted(status) || absl::IsNotFound(status)) {
    absl::MutexLock lock(&mutex_);
    kill_at_ = absl::Now();
  }
}

// The only event that may be lost: another one follows in a second.
void JobRun::TakeProgress(const v1::Progress& progress) {
  JobMetrics::Report report;
  report.phase = v1::Progress::Phase_Name(progress.phase());
  report.step = progress.step();
  report.total_steps = progress.total_steps();
  report.batch_size = BatchSize(job_, progress);
  report.loss = progress.loss();
  report.learning_rate = progress.learning_rate();
  report.gradient_norm = progress.gradient_norm();
  report.examples_per_second = progress.examples_per_second();
  report.tokens_per_second = progress.tokens_per_second();
  metrics_->Observe(report);

  JobChange change{.expected = {Job::RUNNING, Job::CANCELLING}, .fence = job_.attempt()};
  change.apply = [&](Job& job, std::vector<v1::TrainingJobEvent>& events) {
    v1::Progress now = progress;
    if (now.total_steps() == 0) {  // it prepares, and does not know yet what was done before
      now.set_step(job.progress().step());
      now.set_total_steps(job.progress().total_steps());
      now.set_epoch(job.progress().epoch());
    }
    *job.mutable_progress() = now;
    v1::TrainingJobEvent& event = events.emplace_back();
    event.set_attempt(job.attempt());
    *event.mutable_progress() = now;
  };
  const auto job = context_.store.jobs().Change(job_.name(), change);
  if (job.ok()) return context_.notify(job_.name());
  spdlog::warn("{}: progress was not stored: {}", job_.name(), std::string(job.status().message()));
}

absl::Status JobRun::Append(v1::TrainingJobEvent event, const Apply& apply) {
  event.set_attempt(job_.attempt());
  return Change({Job::RUNNING, Job::CANCELLING},
                [&](Job& job, std::vector<v1::TrainingJobEvent>& events) {
                  if (apply) apply(job, events);
                  events.push_back(event);
                });
}

absl::Status JobRun::Change(const std::vector<Job::State>& expected, const Apply& apply) {
  const JobChange change{.expected = expected, .fence = job_.attempt(), .apply = apply};
  while (true) {
    const absl::Status status = context_.store.jobs().Change(job_.name(), change).status();
    if (status.ok()) context_.notify(job_.name());
    if (!MayPass(status)) return status;
    spdlog::warn("{}: the store cannot write: {}", job_.name(), std::string(status.message()));
    if (!WaitForNextTry("write_jobs")) return status;
  }
}

bool JobRun::Wait(absl::Duration duration) {
  absl::MutexLock lock(&mutex_);
  const auto stopped = [this]()
                           ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return (asked_ & kStop) != 0; };
  return !mutex_.AwaitWithTimeout(absl::Condition(&stopped), duration);
}

bool JobRun::WaitForNextTry(const char* operation) {
  if (!Wait(kTryInterval)) return false;
  if (operation != nullptr) context_.metrics.CountStoreRetry(operation);
  return true;
}

bool JobRun::MayPass(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsResourceExhausted(status);
}

}  // namespace tasuki
