// The states of a training job and their legal changes: drawn here, enforced here, tested as a full
// matrix.
//
//                 ┌─────────────────────── retried ────────────────────────┐
//                 │     the trainer died, or the server stopped            │
//                 │┌──────────────────────────────────────┐                │
//                 ▼▼                                      │                │
//   created ─▶ QUEUED ──────── gets the device ───────▶ RUNNING ──┬──▶ FAILED
//               │  ▲                                      │       ├──▶ SUCCEEDED
//               │  └─ resumed ── PAUSED ◀──── paused ─────┤       └──▶ CANCELLING ──▶ CANCELLED
//               │                 ▲ │                                                    ▲
//               ├──── paused ─────┘ └───────────── cancelled ────────────────────────────┤
//               └──────────────────────────────── cancelled ─────────────────────────────┘
//
// A job in SUCCEEDED, FAILED or CANCELLED has ended. It does not change again, but for a FAILED one
// by RetryTrainingJob. Pure functions; any thread.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

// Whether a job in state `from` may come into state `to`.
bool MayBecome(v1::TrainingJob::State from, v1::TrainingJob::State to);

// Whether a job in that state has ended.
bool HasEnded(v1::TrainingJob::State state);

// `models/{model}/aliases/{alias}` of its deploy_on_success.
std::string AliasOf(const v1::TrainingJob& job);

// Events of the job's present attempt: that it is in `state` now; something for people.
v1::TrainingJobEvent StateEvent(const v1::TrainingJob& job, v1::TrainingJob::State state,
                                absl::string_view reason);
v1::TrainingJobEvent MessageEvent(const v1::TrainingJob& job,
                                  v1::TrainingJobEvent::Message::Severity severity,
                                  absl::string_view text);

using StateChanged = v1::TrainingJobEvent::StateChanged;

// Brings `job` into state `to` and appends the event; the store sets the times. A wish to pause
// ends with the state in which it came.
// REQUIRES: MayBecome(job.state(), to); the process aborts otherwise.
void EnterState(v1::TrainingJob& job, v1::TrainingJob::State to, absl::string_view reason,
                std::vector<v1::TrainingJobEvent>& events,
                StateChanged::Cause cause = StateChanged::CAUSE_UNSPECIFIED);

}  // namespace tasuki
