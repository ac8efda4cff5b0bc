// One attempt of one job: from RUNNING to the state in which it leaves the job.
//
//   JobRun run(context, *jobs.ClaimOldestQueued());
//   run.Run();               // on the scheduler's thread; blocks until the attempt is over
//   run.Ask(JobRun::kStop);  // from any thread
//
// Run() starts the trainer; a thread of its own reads the trainer's events into the store. While
// the store cannot write, the trainer waits at its pipe. What a finished trainer made is published,
// then the job is SUCCEEDED.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "google/rpc/status.pb.h"
#include "server/jobs/job_history.h"
#include "server/jobs/jobs.h"
#include "server/jobs/trainer_process.h"
#include "server/metrics/metrics.h"
#include "server/store/data_directory.h"
#include "server/store/job_state.h"
#include "server/store/job_table.h"
#include "server/store/store.h"
#include "tasuki/internal/trainer.pb.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

// What every run works with; outlives it.
struct JobContext {
  Store& store;
  const DataDirectory& data;
  const JobsOptions& options;
  Metrics& metrics;
  Jobs::Publish publish;
  Jobs::Deploy deploy;
  Jobs::Listener notify;
};

class JobRun {
 public:
  // kPause: a checkpoint, then PAUSED. kCancel: no checkpoint; the job is CANCELLING already.
  // kStop: a checkpoint, then QUEUED, since the server stops. kFinish: the training ends and what
  // is best so far is published.
  enum Request { kPause = 1, kCancel = 2, kStop = 4, kFinish = 8 };

  // `job` was claimed: RUNNING, its attempt counted.
  JobRun(const JobContext& context, v1::TrainingJob job);
  void Run();
  // Instead of Run(): what the job, which is none of the store's, would need. `directory` is
  // scratch. See tasuki.v1.TrainingService. Blocks; Ask(kStop) ends it, UNAVAILABLE, and so does
  // `cancelled` (may be empty), CANCELLED, soon after it answers true.
  absl::StatusOr<v1::EstimateTrainingJobResponse> Estimate(const std::string& directory,
                                                           const std::function<bool()>& cancelled);
  // Instead of Run(): evaluates as the job, which is none of the store's, says. `directory` is
  // scratch. Blocks; Ask(kStop or kCancel) ends it, UNAVAILABLE.
  absl::StatusOr<std::vector<v1::Evaluation>> Evaluate(const std::string& directory);
  // Passes the wish on; a trainer that does not follow within stop_grace is killed, unless it was
  // asked to finish only. Never blocks.
  void Ask(Request request);
  const std::string& job_name() const { return job_.name(); }

 private:
  using Apply = std::function<void(v1::TrainingJob&, std::vector<v1::TrainingJobEvent>&)>;

  // Reads the job anew, hears what was asked before this object was there, and makes the directory
  // with the trainer's specification.
  absl::Status Prepare();
  absl::StatusOr<internal::TrainerSpec> MakeSpec(bool out_of_memory) const;
  // `flag` says what it is to do with the specification.
  absl::StatusOr<std::unique_ptr<TrainerProcess>> StartTrainer(const std::string& flag,
                                                               const std::string& spec,
                                                               const std::string& log) const;
  // Runs a trainer of a job that is none of the store's in `directory`, to its end; what it said
  // last is in last_event_.
  absl::Status RunAside(const std::string& flag, const std::string& directory,
                        const std::function<bool()>& cancelled = nullptr);
  // On the reader's thread: until the process has ended.
  void ReadEvents(TrainerProcess& process);
  void TakeEvent(const internal::TrainerEvent& event);
  void TakeProgress(const v1::Progress& progress);
  // Kills the process once it is overdue, or nobody waits for it; returns when it has ended.
  void WatchOver(TrainerProcess& process, const std::function<bool()>& cancelled = nullptr);

  // The ends of an attempt (job_run_end.cc).
  void Conclude();
  void ConcludeFinished(const internal::TrainerEvent::Finished& finished);
  void ConcludeStopped();
  // `cause` is a clause.
  void ConcludeDeath(const std::string& cause, bool out_of_memory);
  // The last lines of the job's log, for the end of a message; empty if there are none.
  std::string LastLines() const;
  void PublishResult();
  // What becomes of `version`, the job's, by its deploy_on_success (job_run_deploy.cc).
  // UNAVAILABLE: the server stops before that is known.
  absl::StatusOr<v1::Deployment> Deploy(const std::string& version);
  // Both versions on the job's test rows, task by task.
  absl::StatusOr<std::vector<v1::Deployment::Comparison>> Compare(const v1::ModelVersion& current);
  void Fail(google::rpc::Status error, const Apply& apply = nullptr);

  // One change of the job by this attempt. A store that cannot write is tried again until it can or
  // the server stops.
  absl::Status Change(const std::vector<v1::TrainingJob::State>& expected, const Apply& apply);
  // Appends an event of the trainer and applies `apply`.
  absl::Status Append(v1::TrainingJobEvent event, const Apply& apply = nullptr);
  // Leaves the job in `state`; CANCELLED if it is CANCELLING, PAUSED instead of QUEUED if that was
  // asked. `apply` comes before that.
  void Leave(v1::TrainingJob::State state, absl::string_view reason, const Apply& apply = nullptr,
             StateChanged::Cause cause = StateChanged::CAUSE_UNSPECIFIED);
  // Waits. False, at once: the server stops.
  bool Wait(absl::Duration duration);
  // The same, and counts what of the store is tried again, if that is it: one of metrics' closed
  // list.
  bool WaitForNextTry(const char* operation = nullptr);
  // Whether trying again may help: the system or the store did not do its part, or the disk was
  // full.
  static bool MayPass(const absl::Status& status);

  // Whether any of these requests (bits) was made.
  bool Asked(int requests) const;
  bool Killed() const;

  // Constant after construction.
  const JobContext& context_;

  // Of the thread that runs, or of the reader while that lives.
  v1::TrainingJob job_;   // as it was when this attempt began
  bool recorded_ = true;  // its events are the job's history
  std::unique_ptr<JobMetrics> metrics_;
  internal::TrainerEvent last_event_;  // finished, stopped, failed or estimate, if it came
  absl::Status stream_status_;         // of the event channel
  TrainerExit exit_;

  mutable absl::Mutex mutex_;
  int asked_ ABSL_GUARDED_BY(mutex_) = 0;  // bits of Request
  absl::Time kill_at_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;   // the process, and all that it said is stored
  bool killed_ ABSL_GUARDED_BY(mutex_) = false;  // by us
  TrainerProcess* process_ ABSL_GUARDED_BY(mutex_) = nullptr;
  JobRun* comparison_ ABSL_GUARDED_BY(mutex_) = nullptr;  // evaluates for Compare
};

}  // namespace tasuki
