#include "server/trainer/trainer.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "google/protobuf/util/time_util.h"
#include "model/errors/errors.h"
#include "model/errors/status_proto.h"
#include "model/files/durable.h"
#include "model/files/model_directory.h"
#include "model/files/sha256.h"
#include "model/t5/classifier.h"
#include "model/training/estimate.h"
#include "model/training/training.h"
#include "server/trainer/channels.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"
#include "tasuki/internal/trainer.pb.h"

namespace tasuki {
namespace {

using google::protobuf::util::TimeUtil;

constexpr unsigned kEstimateSeconds = 15 * 60;
// The trainer of an earlier attempt ends as soon as it notices that its server is gone.
constexpr absl::Duration kLockPatience = absl::Seconds(20);
constexpr absl::Duration kLockInterval = absl::Milliseconds(50);
constexpr absl::Duration kProgressLogInterval = absl::Seconds(10);

// Lives as long as the process: the thread of the commands and the signal handler refer to it.
StopSignal stop_signal;

void StopOnSignal(int) { RequestStop(stop_signal, StopSignal::kStop); }

// Should memory run out, the system is to end this process, never the server. Best effort: a
// process may always say this of itself where the system has an out-of-memory killer.
void VolunteerToBeKilled() { std::ofstream("/proc/self/oom_score_adj") << 1000; }

// Gives the processor to whoever else wants it, above all to the server. Threads, and a tokenizer's
// trainer, inherit it: before any is started. Needs no privilege, but a sandbox may refuse it.
void YieldToOthers() {
  const sched_param none = {};
  if (sched_setscheduler(0, SCHED_IDLE, &none) == 0) return;
  spdlog::warn("Idle priority was refused ({}): serving may wait for this job.",
               std::strerror(errno));
}

// Sends what happens to the server and prints it for people.
class Reporter : public TrainingObserver {
 public:
  void OnProgress(const v1::Progress& progress) override {
    internal::TrainerEvent event;
    *event.mutable_progress() = progress;
    WriteEvent(kEventsFd, event);
    const absl::Time now = absl::Now();
    if (progress.phase() == phase_ && now - logged_ < kProgressLogInterval) return;
    phase_ = progress.phase();
    logged_ = now;
    if (progress.total_rows() > 0) {
      spdlog::info("{}: {} of {} rows", v1::Progress::Phase_Name(phase_), progress.evaluated_rows(),
                   progress.total_rows());
      return;
    }
    spdlog::info("{}: step {} of {}, loss {:.4f}, {:.1f} examples/s",
                 v1::Progress::Phase_Name(phase_), progress.step(), progress.total_steps(),
                 progress.loss(), progress.examples_per_second());
  }
  void OnEvaluation(const v1::Evaluation& evaluation) override {
    internal::TrainerEvent event;
    *event.mutable_evaluation() = evaluation;
    WriteEvent(kEventsFd, event);
    spdlog::info(
        "Evaluation of {} at step {} ({}, {}, {} rows): loss {:.4f}, accuracy {:.4f}, "
        "macro F1 {:.4f}",
        evaluation.task().empty() ? "the model" : evaluation.task(), evaluation.step(),
        v1::Evaluation::Split_Name(evaluation.split()),
        v1::Evaluation::Method_Name(evaluation.method()), evaluation.row_count(), evaluation.loss(),
        evaluation.accuracy(), evaluation.macro_f1());
  }
  void OnCheckpoint(int64_t step, bool best, absl::Duration took) override {
    internal::TrainerEvent event;
    event.mutable_checkpoint_written()->set_step(step);
    event.mutable_checkpoint_written()->set_best(best);
    *event.mutable_checkpoint_written()->mutable_write_time() =
        TimeUtil::MillisecondsToDuration(absl::ToInt64Milliseconds(took));
    WriteEvent(kEventsFd, event);
    spdlog::info("Checkpoint of step {}{}", step, best ? ", the best so far" : "");
  }
  void OnCheckpointTrouble(bool passed_over) override {
    internal::TrainerEvent event;
    event.mutable_checkpoint_trouble()->set_passed_over(passed_over);
    WriteEvent(kEventsFd, event);
  }
  void OnMessage(v1::TrainingJobEvent::Message::Severity severity,
                 const std::string& text) override {
    internal::TrainerEvent event;
    event.mutable_message()->set_severity(severity);
    event.mutable_message()->set_text(text);
    WriteEvent(kEventsFd, event);
    spdlog::info("{}: {}", v1::TrainingJobEvent::Message::Severity_Name(severity), text);
  }

 private:
  v1::Progress::Phase phase_ = v1::Progress::PHASE_UNSPECIFIED;  // logged last
  absl::Time logged_;
};

// Takes the job's lock for the rest of the process.
bool LockJob(const std::string& job_dir) {
  const std::string path = job_dir + "/lock";
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0640);
  if (fd < 0) {
    spdlog::error("{}: {}", path, std::strerror(errno));
    return false;
  }
  const absl::Time deadline = absl::Now() + kLockPatience;
  while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (absl::Now() > deadline) {
      spdlog::error("{}: another trainer has the job still, after {}", path,
                    absl::FormatDuration(kLockPatience));
      return false;
    }
    absl::SleepFor(kLockInterval);
  }
  return true;
}

absl::Status Changed(absl::string_view message) {
  return MakeError(absl::StatusCode::kDataLoss, v1::FILE_CHANGED, message);
}

// Training must not start from other bytes than those that were named.
absl::Status CheckInputs(const internal::TrainerSpec& spec) {
  for (const auto& dataset : spec.datasets()) {
    const auto sha256 = Sha256OfFile(dataset.path());
    if (absl::IsNotFound(sha256.status())) {
      return Changed(absl::StrCat("The file of ", dataset.name(), " is missing."));
    }
    if (!sha256.ok()) return sha256.status();
    if (*sha256 != dataset.sha256()) {
      return Changed(absl::StrCat("The file of ", dataset.name(), " was changed: its SHA-256 is ",
                                  *sha256, ", not ", dataset.sha256(), "."));
    }
  }
  if (spec.base_dir().empty()) return absl::OkStatus();
  return CheckFiles(spec.base_dir(), {spec.base_files().begin(), spec.base_files().end()});
}

TrainingPlaces PlacesOf(const internal::TrainerSpec& spec) {
  TrainingPlaces places;
  places.base_directory = spec.base_dir();
  for (const auto& dataset : spec.datasets()) places.datasets[dataset.name()] = dataset.path();
  places.checkpoints_directory = spec.job_dir() + "/checkpoints";
  places.result_directory = spec.job_dir() + "/result";
  places.training_job = spec.job().name();
  places.predictions_file = spec.job_dir() + "/predictions.jsonl";
  return places;
}

absl::StatusOr<TrainingOutcome> TrainAsSpecified(const internal::TrainerSpec& spec) {
  if (absl::Status status = CheckInputs(spec); !status.ok()) return status;
  Reporter reporter;
  const TrainingOptions options{.threads = spec.threads(),
                                .kernels = spec.kernels(),
                                .device = spec.device(),
                                .out_of_memory = spec.out_of_memory()};
  return Train(spec.job(), PlacesOf(spec), options, stop_signal, reporter);
}

// Tells an error and answers the exit code.
int ConcludeFailed(const absl::Status& status) {
  spdlog::error("{}", status.ToString(absl::StatusToStringMode::kWithNoExtraData));
  // Where a reason is missing, or the system did not do its part, it may be a passing trouble:
  // dying of it has the job tried again.
  if (ReasonOf(status) == v1::ERROR_REASON_UNSPECIFIED || absl::IsUnavailable(status)) {
    return kExitSoftware;
  }
  internal::TrainerEvent event;
  *event.mutable_failed() = StatusProto(status);
  WriteEvent(kEventsFd, event);
  return kExitData;
}

// Tells the end of the attempt and answers the exit code.
int Conclude(const absl::StatusOr<TrainingOutcome>& outcome) {
  if (!outcome.ok()) return ConcludeFailed(outcome.status());
  internal::TrainerEvent event;
  if (outcome->finished) {
    if (outcome->best_step > 0) {
      spdlog::info("Finished after step {}; the weights of step {} are published.", outcome->step,
                   outcome->best_step);
    } else {
      spdlog::info("Finished.");
    }
    event.mutable_finished()->set_best_step(outcome->best_step);
    event.mutable_finished()->mutable_evaluations()->Assign(outcome->evaluations.begin(),
                                                            outcome->evaluations.end());
    event.mutable_finished()->mutable_calibrations()->Assign(outcome->calibrations.begin(),
                                                             outcome->calibrations.end());
  } else {
    spdlog::info("Stopped after step {}, as told.", outcome->step);
    event.mutable_stopped()->set_step(outcome->step);
  }
  WriteEvent(kEventsFd, event);
  return 0;
}

const char* KindOf(const v1::TrainingJob& job) {
  return job.has_pretraining()  ? "pre-training"
         : job.has_evaluation() ? "evaluation"
                                : "fine-tuning";
}

void LogToStandardOutput() {
  auto logger = std::make_shared<spdlog::logger>("trainer",
                                                 std::make_shared<spdlog::sinks::stdout_sink_mt>());
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(std::move(logger));
}

// False, and a line for people, if this is no trainer's place.
bool Begin() {
  VolunteerToBeKilled();
  LogToStandardOutput();
  signal(SIGPIPE, SIG_IGN);
  signal(SIGTERM, StopOnSignal);
  signal(SIGINT, StopOnSignal);
  if (fcntl(kEventsFd, F_GETFD) >= 0) return true;
  spdlog::error("File descriptor 3 is not open: a trainer is started by tasukid.");
  return false;
}

}  // namespace

const char* TrainerVersion() { return TASUKI_VERSION; }

int TrainJob(const std::string& spec_path) {
  if (!Begin()) return kExitUsage;
  internal::TrainerSpec spec;
  if (absl::Status status = ReadJson(spec_path, spec); !status.ok()) {
    return ConcludeFailed(Annotate(status, absl::StrCat(spec_path, ": ")));
  }
  spdlog::info("tasuki-trainer {}: attempt {} of {} ({}), {} threads, device {}", TASUKI_VERSION,
               spec.attempt(), spec.job().name(), KindOf(spec.job()), spec.threads(),
               spec.device());
  if (spec.idle_priority()) YieldToOthers();
  ListenForCommands(kCommandsFd, stop_signal);
  if (!LockJob(spec.job_dir())) return kExitLocked;
  return Conclude(TrainAsSpecified(spec));
}

int EstimateJob(const std::string& spec_path) {
  if (!Begin()) return kExitUsage;
  alarm(kEstimateSeconds);
  internal::TrainerSpec spec;
  absl::Status status = Annotate(ReadJson(spec_path, spec), absl::StrCat(spec_path, ": "));
  if (!status.ok()) return ConcludeFailed(status);
  if (spec.idle_priority()) YieldToOthers();
  ListenForCommands(kCommandsFd, stop_signal);
  if (status = CheckInputs(spec); !status.ok()) return ConcludeFailed(status);
  auto estimate = Estimate(
      spec.job(), PlacesOf(spec),
      {.threads = spec.threads(), .kernels = spec.kernels(), .device = spec.device()}, stop_signal);
  if (!estimate.ok()) return ConcludeFailed(estimate.status());
  internal::TrainerEvent event;
  *event.mutable_estimate() = *std::move(estimate);
  WriteEvent(kEventsFd, event);
  return 0;
}

int CheckDirectory(const std::string& directory) {
  VolunteerToBeKilled();
  const auto weights = CheckModelDirectory(directory);
  if (!weights.ok()) {
    std::fprintf(stderr, "%s\n", std::string(weights.status().message()).c_str());
    return kExitData;
  }
  std::printf("%lld\n", static_cast<long long>(*weights));
  return 0;
}

}  // namespace tasuki
