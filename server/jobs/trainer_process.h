// A trainer as a child process: started by posix_spawn in a process group of its own, with default
// signals and no file of ours but its channels.
//
//   0     commands to it (internal.TrainerCommand); end of file means that we are gone
//   1, 2  appended to its job's log
//   3     events from it (internal.TrainerEvent)
//
// ReadEvent and Wait are for one thread; Send and Kill for any, at any time.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "google/protobuf/io/zero_copy_stream_impl.h"
#include "tasuki/internal/trainer.pb.h"

namespace tasuki {

// How a process ended.
struct TrainerExit {
  int code = 0;    // of exit(); meaningless if signal is not 0
  int signal = 0;  // that ended it; 0 for none
  // It was killed, and the system killed for lack of memory while it ran.
  bool out_of_memory = false;
  // A clause: "it exited with code 1", "it was ended by signal 11 (Segmentation fault)".
  std::string Describe() const;
};

class TrainerProcess {
 public:
  struct Options {
    std::string program;  // path, not searched for
    std::vector<std::string> arguments;
    std::string log_path;
    std::map<std::string, std::string> environment;  // beside and instead of ours
    // Where the system counts what it kills for lack of memory.
    std::string vmstat = "/proc/vmstat";
  };
  // UNAVAILABLE, naming the program, if it cannot be started.
  static absl::StatusOr<std::unique_ptr<TrainerProcess>> Start(const Options& options);
  // Kills it and waits if that was not done.
  ~TrainerProcess();
  TrainerProcess(const TrainerProcess&) = delete;
  TrainerProcess& operator=(const TrainerProcess&) = delete;

  // Waits for the next event. nullopt once the process has closed the channel, most often by
  // ending. DATA_LOSS if it does not keep to the protocol.
  absl::StatusOr<std::optional<internal::TrainerEvent>> ReadEvent();
  // Waits for the end of the process, and kills what is left of its group.
  TrainerExit Wait();
  // Never blocks. A process that has ended hears nothing.
  void Send(internal::TrainerCommand::Action action);
  // Kills the process with its group.
  void Kill();

 private:
  TrainerProcess(pid_t pid, int commands, int events, std::string vmstat, int64_t kills_before);

  // Constant after construction.
  const int commands_;  // socket
  const int events_;    // pipe
  const std::string vmstat_;
  const int64_t kills_before_;  // for lack of memory, before it was started

  // Of the thread that reads.
  google::protobuf::io::FileInputStream event_stream_;

  absl::Mutex mutex_;
  pid_t pid_ ABSL_GUARDED_BY(mutex_);  // 0 once it was waited for: the number may be another's
  TrainerExit exit_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tasuki
