// The malformed rows of an uploaded file.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace tasuki {

// What is wrong with a row, for a message.
struct RowFault {
  std::string column;  // empty if it is the row as a whole
  std::string cause;   // such as "is empty"
  std::string value;   // the value at fault, or the beginning of the row
};

// Counts malformed rows and describes the first 20, or fewer where they take long to tell: an error
// travels as trailing metadata, 8 KiB in all, where Japanese takes four times its size.
class BadRows {
 public:
  void Add(int64_t row, int64_t line, const RowFault& fault);
  int64_t count() const { return count_; }
  // INVALID_ARGUMENT, ROWS_INVALID. `rows` is the number of all rows. REQUIRES: count() > 0.
  absl::Status ToStatus(int64_t rows) const;

 private:
  int64_t count_ = 0;
  int64_t listed_ = 0;
  std::string list_;
};

}  // namespace tasuki
