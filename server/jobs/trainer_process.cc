#include "server/jobs/trainer_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "google/protobuf/util/delimited_message_util.h"
#include "model/errors/errors.h"

extern char** environ;

namespace tasuki {
namespace {

constexpr int kEventsFd = 3;
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

// Our environment with `changes`, as NAME=value.
std::vector<std::string> Environment(const std::map<std::string, std::string>& changes) {
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(*variable, absl::MaxSplits('=', 1));
    if (changes.count(parts.first) == 0) variables.push_back(*variable);
  }
  for (const auto& [name, value] : changes) variables.push_back(absl::StrCat(name, "=", value));
  return variables;
}

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& string : strings) pointers.push_back(string.data());
  pointers.push_back(nullptr);
  return pointers;
}

// posix_spawn with everything of ours left behind but `channels`. Answers errno.
int Spawn(const TrainerProcess::Options& options, const Channels& channels, pid_t& pid) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  const absl::Cleanup destroy = [&] {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  };
  posix_spawn_file_actions_adddup2(&actions, channels.child_commands.get(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, channels.log.get(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, channels.log.get(), STDERR_FILENO);
  posix_spawn_file_actions_adddup2(&actions, channels.child_events.get(), kEventsFd);
  // Libraries open files that are not closed on exec.
  posix_spawn_file_actions_addclosefrom_np(&actions, kEventsFd + 1);

  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);

  std::vector<std::string> arguments = options.arguments;
  arguments.insert(arguments.begin(), options.program);
  std::vector<std::string> variables = Environment(options.environment);
  return posix_spawn(&pid, options.program.c_str(), &actions, &attributes,
                     Pointers(arguments).data(), Pointers(variables).data());
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
  errno = Spawn(options, channels, pid);
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
