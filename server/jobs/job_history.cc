#include "server/jobs/job_history.h"

#include <algorithm>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"

namespace tasuki {
namespace {

constexpr char kTrainerDied[] = "The trainer died: ";
constexpr char kOutOfMemory[] = "The trainer died for lack of memory: ";
constexpr char kPauseAsked[] = "A pause was asked for; the trainer writes a checkpoint and stops.";
constexpr int kWindow = 500;  // events read at once, newest window first

bool AsksForPause(const v1::TrainingJobEvent& event, const v1::TrainingJob& job) {
  return event.attempt() == job.attempt() && event.has_message() &&
         event.message().text() == kPauseAsked;
}

}  // namespace

std::string DeathReason(absl::string_view cause, bool out_of_memory) {
  return absl::StrCat(out_of_memory ? kOutOfMemory : kTrainerDied, cause);
}

v1::TrainingJobEvent PauseAskedEvent(const v1::TrainingJob& job) {
  v1::TrainingJobEvent event;
  event.set_attempt(job.attempt());
  event.mutable_message()->set_severity(v1::TrainingJobEvent::Message::INFO);
  event.mutable_message()->set_text(kPauseAsked);
  return event;
}

absl::StatusOr<JobHistory> ReadJobHistory(JobTable& jobs, const v1::TrainingJob& job) {
  JobHistory history;
  bool checkpoint_seen = false;
  bool retry_seen = false;
  bool queued_seen = false;
  for (int64_t end = job.last_sequence() + 1; end > 1;) {
    const int64_t begin = std::max<int64_t>(1, end - kWindow);
    auto events = jobs.ReadEvents(job.name(), begin, static_cast<int>(end - begin));
    if (!events.ok()) return Annotate(events.status(), "The job's events cannot be read: ");
    for (auto event = events->rbegin(); event != events->rend(); ++event) {
      if ((checkpoint_seen || retry_seen) && event->attempt() < job.attempt()) return history;
      checkpoint_seen |= event->has_checkpoint_written();
      history.pause_asked |= AsksForPause(*event, job);
      if (!event->has_state_changed()) continue;
      const auto& change = event->state_changed();
      const bool out_of_memory = absl::StartsWith(change.reason(), kOutOfMemory);
      const bool death = out_of_memory || absl::StartsWith(change.reason(), kTrainerDied);
      retry_seen |= change.reason() == kRetried;
      history.deaths += death && !checkpoint_seen && !retry_seen;
      if (change.state() == v1::TrainingJob::QUEUED && !queued_seen) {
        queued_seen = true;
        history.queued_by_death = death;
        history.queued_by_lack_of_memory = out_of_memory;
        history.queued_by_restart = change.reason() == kServerRestarted;
      }
    }
    end = begin;
  }
  return history;
}

absl::StatusOr<bool> WasAskedToPause(JobTable& jobs, const v1::TrainingJob& job) {
  const int64_t begin = std::max<int64_t>(1, job.last_sequence() + 1 - kWindow);
  const auto events = jobs.ReadEvents(job.name(), begin, kWindow);
  if (!events.ok()) return events.status();
  return std::any_of(events->begin(), events->end(),
                     [&](const auto& event) { return AsksForPause(event, job); });
}

}  // namespace tasuki
