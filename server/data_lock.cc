#include "server/data_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace tasuki {

absl::StatusOr<DataLock> DataLock::Take(const std::string& path) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " cannot be opened: ", std::strerror(errno)));
  }
  DataLock lock(fd);
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    char holder[32] = {};
    const ssize_t length = pread(fd, holder, sizeof(holder) - 1, 0);
    return absl::FailedPreconditionError(absl::StrCat(
        path, " is held by another tasukid",
        length > 0 ? absl::StrCat(" (process ", absl::StripAsciiWhitespace(holder), ")") : "",
        "; stop that one or choose another --data_dir"));
  }
  const std::string pid = absl::StrCat(getpid(), "\n");
  // For the sentence above only: a lock without a number is as good.
  if (ftruncate(fd, 0) != 0 || pwrite(fd, pid.data(), pid.size(), 0) < 0) errno = 0;
  return lock;
}

DataLock::DataLock(DataLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

DataLock::~DataLock() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace tasuki
