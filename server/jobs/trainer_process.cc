#include "server/jobs/trainer_process.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/util/delimited_message_util.h"
#include "model/errors/errors.h"
#include "model/files/spawn.h"

namespace tasuki {
namespace {

// Our own copies of the child's files lie above this, so that no dup2 of the child overwrites one.
constexpr int kFirstOwnFd = 10;

absl::Status SystemError(absl::string_view what) {
  return MakeError(absl::StatusCode::kUnavailable, v1::ERROR_REASON_UNSPECIFIED,
                   absl::StrCat(what, ": ", strerror(errno)));
}

// A file descriptor that is closed at the end of its scope unless it was taken.
class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }
  int Take() { return std::exchange(fd_, -1); }
  // Moves it above kFirstOwnFd, closed on exec. False: too many open files.
  bool Lift(int fd) {
    fd_ = fcntl(fd, F_DUPFD_CLOEXEC, kFirstOwnFd);
    close(fd);
    return fd_ >= 0;
  }

 private:
  int fd_;
};

// What a child gets: its ends, and ours.
struct Channels {
  Fd child_commands, our_commands, our_events, child_events, log;

  absl::Status Open(const std::string& log_path) {
    // A socket, since writing to one whose reader is gone can be had without SIGPIPE.
    int sockets[2];
    int pipes[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) {
      return SystemError("No channel to a trainer");
    }
    bool ok = child_commands.Lift(sockets[0]);
    ok = our_commands.Lift(sockets[1]) && ok;
    if (!ok || pipe2(pipes, O_CLOEXEC) != 0) return SystemError("No channel to a trainer");
    ok = our_events.Lift(pipes[0]);
    ok = child_events.Lift(pipes[1]) && ok;
    if (!ok) return SystemError("No channel to a trainer");
    const int file = open(log_path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
    if (file < 0 || !log.Lift(file)) return SystemError(absl::StrCat("Cannot open ", log_path));
    return absl::OkStatus();
  }
};

// How many processes the system has killed for lack of memory; 0 if it does not say.
int64_t OutOfMemoryKills(const std::string& vmstat) {
  std::ifstream file(vmstat);
  std::string name;
  int64_t value = 0;
  while (file >> name >> value) {
    if (name == "oom_kill") return value;
  }
  return 0;
}

}  // namespace

std::string TrainerExit::Describe() const {
  if (signal == 0) return absl::StrCat("it exited with code ", code);
  return absl::StrCat("it was ended by signal ", signal, " (", strsignal(signal), ")",
                      out_of_memory ? ", since the system had run out of memory" : "");
}

absl::StatusOr<std::unique_ptr<TrainerProcess>> TrainerProcess::Start(const Options& options) {
  Channels channels;
  if (absl::Status status = channels.Open(options.log_path); !status.ok()) return status;
  const int64_t kills = OutOfMemoryKills(options.vmstat);
  pid_t pid = 0;
  Spawning spawning;
  spawning.program = options.program;
  spawning.arguments = options.arguments;
  spawning.descriptors = {channels.child_commands.get(), channels.log.get(), channels.log.get(),
                          channels.child_events.get()};
  spawning.own_group = true;
  spawning.environment = options.environment;
  errno = Spawn(spawning, pid);
  if (errno != 0) return SystemError(absl::StrCat("Cannot start ", options.program));
  return std::unique_ptr<TrainerProcess>(new TrainerProcess(
      pid, channels.our_commands.Take(), channels.our_events.Take(), options.vmstat, kills));
}

TrainerProcess::TrainerProcess(pid_t pid, int commands, int events, std::string vmstat,
                               int64_t kills_before)
    : commands_(commands),
      events_(events),
      vmstat_(std::move(vmstat)),
      kills_before_(kills_before),
      event_stream_(events),
      pid_(pid) {}

TrainerProcess::~TrainerProcess() {
  Kill();
  Wait();
  close(commands_);
  close(events_);
}

absl::StatusOr<std::optional<internal::TrainerEvent>> TrainerProcess::ReadEvent() {
  internal::TrainerEvent event;
  bool at_end = false;
  if (google::protobuf::util::ParseDelimitedFromZeroCopyStream(&event, &event_stream_, &at_end)) {
    return event;
  }
  // A process that was killed may have written half an event.
  if (at_end || event_stream_.GetErrno() != 0) return std::nullopt;
  return absl::DataLossError("The trainer wrote an event that is none or half of one.");
}

TrainerExit TrainerProcess::Wait() {
  pid_t pid;
  {
    absl::MutexLock lock(&mutex_);
    if (pid_ == 0) return exit_;
    pid = pid_;
  }
  // Waits without taking the process away, so that its number stays its own until pid_ is cleared.
  siginfo_t info = {};
  while (waitid(P_PID, pid, &info, WEXITED | WNOWAIT) != 0 && errno == EINTR) {
  }
  absl::MutexLock lock(&mutex_);
  kill(-pid, SIGKILL);
  while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  pid_ = 0;
  if (info.si_code == CLD_EXITED) {
    exit_.code = info.si_status;
  } else {
    exit_.signal = info.si_status;
    exit_.out_of_memory = info.si_status == SIGKILL && OutOfMemoryKills(vmstat_) > kills_before_;
  }
  return exit_;
}

void TrainerProcess::Send(internal::TrainerCommand::Action action) {
  internal::TrainerCommand command;
  command.set_action(action);
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::util::SerializeDelimitedToZeroCopyStream(command, &stream);
  // Lost only if the process has ended or has left thousands unread: then it is killed in the end.
  (void)send(commands_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

void TrainerProcess::Kill() {
  absl::MutexLock lock(&mutex_);
  if (pid_ != 0) kill(-pid_, SIGKILL);
}

}  // namespace tasuki
