// The trainer's ends of its channels to the server (proto/tasuki/internal/trainer.proto).
#pragma once

#include "model/training/training.h"
#include "tasuki/internal/trainer.pb.h"

namespace tasuki {

inline constexpr int kCommandsFd = 0;
inline constexpr int kEventsFd = 3;

// Exit codes of the trainer beside 0. Whatever the code, the last event says what the server does.
inline constexpr int kExitUsage = 64;       // wrong command line
inline constexpr int kExitData = 65;        // `failed` was sent: trying again would not help
inline constexpr int kExitSoftware = 70;    // an error that another attempt may not meet
inline constexpr int kExitServerGone = 74;  // nobody is there to train for
inline constexpr int kExitLocked = 75;      // another trainer has the job

// Starts a thread that reads commands from `fd` for the rest of the process and sets `stop`, which
// must live as long. End of file ends the process at once.
void ListenForCommands(int fd, StopSignal& stop);

// Raises the request; one that asks for less changes nothing. A signal handler may call it.
void RequestStop(StopSignal& stop, StopSignal::Request request);

// Writes an event to `fd`; waits while the pipe is full. Ends the process if nobody reads it.
void WriteEvent(int fd, const internal::TrainerEvent& event);

}  // namespace tasuki
