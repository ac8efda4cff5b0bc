// Estimates: a trainer that prepares a job, measures a few steps of it and says what it would need.
#include <signal.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/errors/status_proto.h"
#include "server/jobs/job_run.h"
#include "spdlog/spdlog.h"

namespace tasuki {

absl::StatusOr<v1::EstimateTrainingJobResponse> JobRun::Estimate(
    const std::string& directory, const std::function<bool()>& cancelled) {
  absl::Status status = RunAside("--estimate", directory, cancelled);
  if (!status.ok()) return status;

  if (last_event_.has_estimate()) return std::move(*last_event_.mutable_estimate());
  if (last_event_.has_failed()) return StatusOf(last_event_.failed());
  if (Asked(kStop)) return DrainingError();
  if (cancelled && cancelled()) return absl::CancelledError("The client went away.");
  if (exit_.out_of_memory) {
    return MakeError(
        absl::StatusCode::kResourceExhausted, v1::OUT_OF_MEMORY,
        "the estimate's trainer was killed: memory had run out; a smaller batch_size or "
        "max_input_tokens may help");
  }
  if (exit_.signal == SIGALRM) {
    return MakeError(absl::StatusCode::kDeadlineExceeded, v1::DEADLINE_PASSED,
                     "the job's data were not read and tokenised within 15 minutes");
  }
  spdlog::error("the trainer of an estimate ended without a word: {}", exit_.Describe());
  return absl::UnavailableError(
      absl::StrCat("the estimate's trainer ended before it was done: ", exit_.Describe()));
}

}  // namespace tasuki
