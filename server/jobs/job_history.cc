#include "server/jobs/job_history.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "model/errors/errors.h"

namespace tasuki {
namespace {

constexpr int kWindow = 500;  // events read at once, newest window first

bool IsDeath(StateChanged::Cause cause) {
  return cause == StateChanged::TRAINER_DIED || cause == StateChanged::TRAINER_OUT_OF_MEMORY;
}

}  // namespace

absl::StatusOr<JobHistory> ReadJobHistory(JobTable& jobs, const v1::TrainingJob& job) {
  JobHistory history;
  bool queued_seen = false;
  bool retry_seen = false;
  bool checkpoint_seen = false;
  int64_t step = 0;            // of the newest checkpoint
  bool earlier_seen = false;   // a checkpoint of another step
  int server_deaths_then = 0;  // before the oldest checkpoint of that step that was seen
  for (int64_t end = job.last_sequence() + 1; end > 1;) {
    const int64_t begin = std::max<int64_t>(1, end - kWindow);
    auto events = jobs.ReadEvents(job.name(), begin, static_cast<int>(end - begin));
    if (!events.ok()) return Annotate(events.status(), "The job's events cannot be read: ");
    for (auto event = events->rbegin(); event != events->rend(); ++event) {
      if (queued_seen && earlier_seen) return history;
      if (event->has_checkpoint_written()) {
        const int64_t written = event->checkpoint_written().step();
        earlier_seen |= checkpoint_seen && written != step;
        checkpoint_seen = true;
        if (earlier_seen) continue;
        step = written;
        history.server_deaths += std::exchange(server_deaths_then, 0);
      }
      if (!event->has_state_changed()) continue;
      const StateChanged& change = event->state_changed();
      if (change.state() == v1::TrainingJob::QUEUED && !queued_seen) {
        queued_seen = true;
        history.queued_by = change.cause();
      }
      retry_seen |= change.cause() == StateChanged::RETRIED;
      history.deaths += IsDeath(change.cause()) && !checkpoint_seen && !retry_seen;
      server_deaths_then += change.cause() == StateChanged::SERVER_DIED && !retry_seen;
    }
    end = begin;
  }
  // A checkpoint of step 0 is the beginning.
  if (step == 0 && !earlier_seen) history.server_deaths += server_deaths_then;
  return history;
}

}  // namespace tasuki
