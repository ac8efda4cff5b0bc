// What a job's stored events tell beyond its row. Events are the only memory of deaths and of an
// asked pause, so both survive a restart of the server. The sentences that are recognised are made
// here.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/store/job_table.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

// So many deaths in a row without a new checkpoint end a job: FAILED, CRASH_LOOP.
inline constexpr int kMaxDeaths = 3;

// Reason of the state change after a trainer died of itself. `cause` is a clause, such as
// "it exited with code 1".
std::string DeathReason(absl::string_view cause, bool out_of_memory);

// The event of an asked pause of a running job.
v1::TrainingJobEvent PauseAskedEvent(const v1::TrainingJob& job);

// Reason of the state change when a server finds a job running that an earlier server ran.
inline constexpr char kServerRestarted[] =
    "The server was started anew; the job goes on from its newest checkpoint.";

// Reason of the state change when a failed job is tried again; deaths before it do not count.
inline constexpr char kRetried[] = "It is tried again; it goes on from its newest checkpoint.";

struct JobHistory {
  int deaths = 0;            // of trainers since the newest checkpoint or retry
  bool pause_asked = false;  // of the present attempt
  // Why the job was queued last: by its death, by a restart, or else.
  bool queued_by_death = false;
  bool queued_by_lack_of_memory = false;  // a death, too
  bool queued_by_restart = false;
};

// Errors of the store.
absl::StatusOr<JobHistory> ReadJobHistory(JobTable& jobs, const v1::TrainingJob& job);

// JobHistory::pause_asked of a running job, from its newest events only: a trainer that was told to
// stop says little more. Errors of the store.
absl::StatusOr<bool> WasAskedToPause(JobTable& jobs, const v1::TrainingJob& job);

}  // namespace tasuki
