// At most one server works on a data directory.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace tasuki {

// Holds the lock file of a data directory; the system frees it when the process ends, however that
// happens. Movable; any thread.
class DataLock {
 public:
  // FAILED_PRECONDITION, naming the process that has it, or if the file cannot be opened.
  static absl::StatusOr<DataLock> Take(const std::string& path);
  DataLock(DataLock&& other) noexcept;
  DataLock& operator=(DataLock&&) = delete;
  ~DataLock();

 private:
  explicit DataLock(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace tasuki
