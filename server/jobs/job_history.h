// What a job's stored events tell beyond its row. Events are the only memory of deaths, so it
// survives a restart of the server.
#pragma once

#include "absl/status/statusor.h"
#include "server/store/job_state.h"
#include "server/store/job_table.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

// So many deaths of trainers in a row without a new checkpoint end a job: FAILED, CRASH_LOOP.
inline constexpr int kMaxDeaths = 3;
// The same of servers that ran it: where a container is killed as a whole, a trainer that takes too
// much memory takes the server along. Others may be at fault as well, so there may be more.
inline constexpr int kMaxServerDeaths = 5;

struct JobHistory {
  int deaths = 0;  // of trainers since the newest checkpoint or retry
  // Of servers that ran the job since it got so far, or was retried. A checkpoint of the same step
  // again, which a trainer that begins with less at once writes, is none that counts.
  int server_deaths = 0;
  // Why it was queued last.
  StateChanged::Cause queued_by = StateChanged::CAUSE_UNSPECIFIED;

  // Whether memory ran out before, or may have: a server may end once for any reason.
  bool lacked_memory() const {
    return queued_by == StateChanged::TRAINER_OUT_OF_MEMORY ||
           (queued_by == StateChanged::SERVER_DIED && server_deaths >= 2);
  }
};

// Errors of the store.
absl::StatusOr<JobHistory> ReadJobHistory(JobTable& jobs, const v1::TrainingJob& job);

}  // namespace tasuki
