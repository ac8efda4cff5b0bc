#include "server/store/job_state.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "spdlog/spdlog.h"

namespace tasuki {

using Job = v1::TrainingJob;

bool MayBecome(Job::State from, Job::State to) {
  switch (from) {
    case Job::QUEUED:
      return to == Job::RUNNING || to == Job::PAUSED || to == Job::CANCELLED;
    case Job::RUNNING:
      return to == Job::QUEUED || to == Job::PAUSED || to == Job::CANCELLING ||
             to == Job::SUCCEEDED || to == Job::FAILED;
    case Job::PAUSED:
      return to == Job::QUEUED || to == Job::CANCELLED;
    case Job::CANCELLING:
      return to == Job::CANCELLED;
    case Job::FAILED:
      return to == Job::QUEUED;
    default:
      return false;
  }
}

bool HasEnded(Job::State state) {
  return state == Job::SUCCEEDED || state == Job::FAILED || state == Job::CANCELLED;
}

std::string AliasOf(const v1::TrainingJob& job) {
  return absl::StrCat(job.model(), "/aliases/", job.deploy_on_success().alias());
}

v1::TrainingJobEvent StateEvent(const Job& job, Job::State state, absl::string_view reason) {
  v1::TrainingJobEvent event;
  event.set_attempt(job.attempt());
  event.mutable_state_changed()->set_state(state);
  event.mutable_state_changed()->set_reason(std::string(reason));
  return event;
}

v1::TrainingJobEvent MessageEvent(const Job& job, v1::TrainingJobEvent::Message::Severity severity,
                                  absl::string_view text) {
  v1::TrainingJobEvent event;
  event.set_attempt(job.attempt());
  event.mutable_message()->set_severity(severity);
  event.mutable_message()->set_text(std::string(text));
  return event;
}

void EnterState(Job& job, Job::State to, absl::string_view reason,
                std::vector<v1::TrainingJobEvent>& events, StateChanged::Cause cause) {
  if (!MayBecome(job.state(), to)) {
    spdlog::critical("{}: {} cannot become {}", job.name(), Job::State_Name(job.state()),
                     Job::State_Name(to));
    std::abort();
  }
  job.set_state(to);
  job.clear_pause_requested();
  events.push_back(StateEvent(job, to, reason));
  events.back().mutable_state_changed()->set_cause(cause);
}

}  // namespace tasuki
