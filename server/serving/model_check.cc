#include "server/serving/model_check.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "model/errors/errors.h"
#include "model/files/spawn.h"

namespace tasuki {
namespace {

constexpr size_t kMaxOutputBytes = 16 << 10;
constexpr int kPatienceMs = 200;  // how late a cancellation or the limit may be noticed

struct Pipe {
  int read = -1;
  int write = -1;
  ~Pipe() {
    if (read >= 0) close(read);
    if (write >= 0) close(write);
  }
  bool Open() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return false;
    read = ends[0];
    write = ends[1];
    return fcntl(read, F_SETFL, O_NONBLOCK) == 0;
  }
  void CloseWrite() { close(std::exchange(write, -1)); }
};

// Reads what is there. What exceeds the limit is read and forgotten, so that the child never waits.
void Drain(int fd, std::string& text) {
  std::array<char, 4096> buffer;
  ssize_t count;
  while ((count = read(fd, buffer.data(), buffer.size())) > 0) {
    text.append(buffer.data(), std::min<size_t>(count, kMaxOutputBytes - text.size()));
  }
}

absl::Status Refused(absl::string_view why) {
  return MakeError(absl::StatusCode::kInvalidArgument, v1::MODEL_INVALID,
                   absl::StrCat("The model's files do not pass the check: ", why));
}

}  // namespace

absl::StatusOr<int64_t> CheckInChildProcess(const std::string& trainer_path,
                                            const std::string& directory,
                                            const std::function<bool()>& cancelled,
                                            absl::Duration limit) {
  const absl::Time deadline = absl::Now() + limit;
  Pipe out, err;
  pid_t pid = -1;
  int error = out.Open() && err.Open() ? 0 : errno;
  if (error == 0) {
    error = Spawn({trainer_path, {"--check", directory}, {-1, out.write, err.write}, true}, pid);
  }
  if (error != 0) {
    return absl::UnavailableError(
        absl::StrCat(trainer_path, " could not be started: ", std::strerror(error)));
  }
  out.CloseWrite();
  err.CloseWrite();
  const int process = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  const auto cleanup = absl::MakeCleanup([process] {
    if (process >= 0) close(process);
  });

  std::string output, complaint;
  pollfd polled[] = {{process, POLLIN, 0}, {out.read, POLLIN, 0}, {err.read, POLLIN, 0}};
  absl::Status ended;
  // Without it the end of the child would never be seen.
  if (process < 0) ended = absl::UnavailableError("A checking process cannot be watched.");
  while ((polled[0].revents & POLLIN) == 0 && ended.ok()) {
    poll(polled, 3, kPatienceMs);
    Drain(out.read, output);
    Drain(err.read, complaint);
    // An end that the child closed would wake poll for ever.
    for (int i : {1, 2}) {
      if (polled[i].revents & POLLHUP) polled[i].fd = -1;
    }
    if (cancelled && cancelled()) ended = absl::CancelledError("The call was cancelled.");
    if (absl::Now() > deadline) {
      ended = Refused(absl::StrCat("it took longer than ", absl::FormatDuration(limit)));
    }
  }
  if (!ended.ok()) kill(-pid, SIGKILL);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  Drain(out.read, output);
  Drain(err.read, complaint);

  absl::StripAsciiWhitespace(&complaint);
  if (!ended.ok()) return ended;
  if (WIFSIGNALED(status)) {
    return Refused(absl::StrCat("the checking process died of signal ", WTERMSIG(status), " (",
                                strsignal(WTERMSIG(status)),
                                "); a file is malformed or needs more "
                                "memory than there is"));
  }
  // The caller knows the files by their names, not by where they lie here.
  if (WEXITSTATUS(status) != 0) {
    return Refused(complaint.empty() ? absl::StrCat("exit code ", WEXITSTATUS(status))
                                     : absl::StrReplaceAll(complaint, {{directory + "/", ""}}));
  }
  int64_t weights = 0;
  if (!absl::SimpleAtoi(output, &weights)) {
    return absl::InternalError(
        absl::StrCat(trainer_path, " --check printed \"", output, "\", not a number of weights"));
  }
  return weights;
}

}  // namespace tasuki
