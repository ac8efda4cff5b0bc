// The malformed rows of an uploaded file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tasuki/v1/datasets.pb.h"

namespace tasuki {

// What is wrong with a row, for a message.
struct RowFault {
  std::string column;  // empty if it is the row as a whole
  std::string cause;   // such as "is empty"
  std::string value;   // the value at fault, or the beginning of the row
};

// Counts malformed rows and keeps the first 1,000.
class BadRows {
 public:
  using Row = v1::CheckDatasetResponse::BadRow;

  void Add(int64_t row, int64_t line, const RowFault& fault);
  int64_t count() const { return count_; }
  const std::vector<Row>& rows() const { return rows_; }
  // INVALID_ARGUMENT, ROWS_INVALID, with the first 20, or fewer where they take long to tell: an
  // error travels as trailing metadata, 8 KiB in all, where Japanese takes four times its size.
  // `rows` is the number of all rows. REQUIRES: count() > 0.
  absl::Status ToStatus(int64_t rows) const;

 private:
  int64_t count_ = 0;
  std::vector<Row> rows_;
};

}  // namespace tasuki
