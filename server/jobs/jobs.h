// Training jobs: the slow path. Creates, schedules, supervises and ends them.
//
// One scheduler thread gives the oldest queued job the device and starts its trainer process
// (trainer_process.h); one thread a trainer reads its events into the store. States and their legal
// changes are in job_state.h. What a trainer made is published through a callback; only then does
// the job say SUCCEEDED.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/store/data_directory.h"
#include "server/store/job_table.h"
#include "server/store/store.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

class Metrics;

struct JobsOptions {
  std::string trainer_path;  // of tasuki-trainer
  int training_threads = 2;
  std::string kernels;        // of trainers; empty: the best of this machine
  bool idle_priority = true;  // of trainers: serving goes first
  std::string device = "cpu";
  bool trains_in_bf16 = false;  // whether a recipe may ask for it
  // How long a trainer may take to stop before it is killed.
  absl::Duration stop_grace = absl::Seconds(30);
  // What passes between a death of a trainer and the next one; four times as much after the second
  // death in a row: what killed it, such as too little memory, may be over by then.
  absl::Duration death_pause = absl::Seconds(1);
  std::string vmstat = "/proc/vmstat";  // see TrainerProcess::Options
};

// Thread-safe.
class Jobs {
 public:
  // Publishes the model directory that job `job` left at `result_directory`; answers the version's
  // name. Idempotent for a job. Called on a thread of this class with no lock held.
  using Publish = std::function<absl::StatusOr<std::string>(const v1::TrainingJob& job,
                                                            const std::string& result_directory)>;
  // Points `models/{model}/aliases/{alias}` to the version of a job. Idempotent. Called on a thread
  // of this class with no lock held.
  using Deploy = std::function<absl::Status(const std::string& alias, const std::string& version,
                                            const std::string& job)>;
  // Told the name of a job each time it has new events, or was deleted. Must not block.
  using Listener = std::function<void(const std::string& job)>;

  Jobs(Store& store, const DataDirectory& data, const JobsOptions& options, Metrics& metrics,
       Publish publish, Deploy deploy);
  ~Jobs();

  // Takes up what an earlier server left (RUNNING → QUEUED, CANCELLING → CANCELLED), then
  // schedules.
  absl::Status Start();
  // Makes no estimate from now on, and ends the one under way, UNAVAILABLE. Never blocks.
  void Drain();
  // Drain; tells trainers to write a checkpoint and stop (their jobs are QUEUED again), and joins
  // threads.
  void Stop();
  // REQUIRES: before Start.
  void SetListener(Listener listener);

  // See tasuki.v1.TrainingService for the errors.
  absl::StatusOr<v1::TrainingJob> Create(const v1::CreateTrainingJobRequest& request);
  // Blocks for as long as the trainer that measures takes; one at a time. CANCELLED soon after
  // `cancelled` (may be empty) answers true.
  absl::StatusOr<v1::EstimateTrainingJobResponse> Estimate(
      const v1::EstimateTrainingJobRequest& request, const std::function<bool()>& cancelled);
  absl::StatusOr<v1::TrainingJob> Cancel(const std::string& name);
  absl::StatusOr<v1::TrainingJob> Pause(const std::string& name);
  absl::StatusOr<v1::TrainingJob> Resume(const std::string& name);
  absl::StatusOr<v1::TrainingJob> Finish(const std::string& name);
  absl::StatusOr<v1::TrainingJob> Retry(const std::string& name);
  absl::StatusOr<std::vector<std::string>> Log(const std::string& name, int line_count);
  absl::Status Delete(const std::string& name);

  // Hands the answers of an evaluation to `use`, at most 1 MiB at a time, with the size of them
  // all; false from it ends that with CANCELLED. FAILED_PRECONDITION, JOB_STATE; DATA_LOSS,
  // FILE_CHANGED.
  using UsePredictions = std::function<bool(int64_t size_bytes, std::string bytes)>;
  absl::Status ReadPredictions(const std::string& name, const UsePredictions& use);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tasuki
