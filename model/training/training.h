// Training of a model from a resolved specification to a directory that can be published.
//
// Everything random follows from (seed, step), so a run that was stopped and resumed on a CPU in
// fp32 ends with the same bytes as one that was not.
#pragma once

#include <atomic>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tasuki/internal/trainer.pb.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

// Hears what happens, on the training thread. Must not throw.
class TrainingObserver {
 public:
  virtual ~TrainingObserver() = default;
  virtual void OnProgress(
      const v1::Progress& progress) = 0;  // at most once a second, and at phases
  virtual void OnEvaluation(const v1::Evaluation& evaluation) = 0;
  // One was completed, and writing it took so long.
  virtual void OnCheckpoint(int64_t step, bool best, absl::Duration took) = 0;
  // A damaged one was passed over, or one could not be written; what is to be said of it comes
  // beside.
  virtual void OnCheckpointTrouble(bool /*passed_over*/) {}
  virtual void OnMessage(v1::TrainingJobEvent::Message::Severity severity,
                         const std::string& text) = 0;
};

// What a training run reads and writes. Paths are absolute.
struct TrainingPlaces {
  std::string base_directory;  // of the base, or evaluated, version; empty for pre-training
  std::map<std::string, std::string> datasets;  // `datasets/{id}` → canonical file
  std::string checkpoints_directory;            // checkpoints; the newest complete one is resumed
  std::string result_directory;  // made beside and renamed: the model directory to publish
  std::string training_job;      // `trainingJobs/{id}`, for the manifest
  std::string predictions_file;  // what an evaluation answered, JSON Lines
};

struct TrainingOptions {
  int threads = 1;
  std::string kernels;  // by name; empty, or what this machine has not: its best
  std::string device = "cpu";
  bool out_of_memory = false;  // of this the attempt before died: begin with half at once
};

// Set from any thread, read between steps. A later request replaces a weaker one. kFinish: end the
// training after a step and publish the best so far; the others: stop, with a checkpoint or
// without.
struct StopSignal {
  enum Request : int { kNone = 0, kFinish = 1, kStop = 2, kAbandon = 3 };
  std::atomic<int> request{kNone};
  // To stop: finishing is none.
  bool requested() const { return request.load(std::memory_order_relaxed) >= kStop; }
};

struct TrainingOutcome {
  bool finished = false;                    // false: it stopped as it was told
  int64_t step = 0;                         // steps done
  int64_t best_step = 0;                    // behind the result; only if finished
  std::vector<v1::Evaluation> evaluations;  // the final ones; only if finished
  std::vector<v1::Calibration> calibrations;
};

// Runs or resumes the work of `job` (resolved by ResolveJob), and leaves the model directory in
// `places.result_directory`; an evaluation leaves its answers in `places.predictions_file` if it is
// to keep them, and no directory. Errors that a new attempt would meet
// again come with a reason: INVALID_ARGUMENT (LABEL_UNKNOWN, LABEL_INDISTINCT, MODEL_INVALID,
// DATASET_EMPTY), OUT_OF_RANGE (NON_FINITE_LOSS), DATA_LOSS (FILE_CHANGED), RESOURCE_EXHAUSTED
// (DISK_FULL); so does one that it may not meet, RESOURCE_EXHAUSTED (OUT_OF_MEMORY).
absl::StatusOr<TrainingOutcome> Train(const v1::TrainingJob& job, const TrainingPlaces& places,
                                      const TrainingOptions& options, const StopSignal& stop,
                                      TrainingObserver& observer);

}  // namespace tasuki
