// Token sequences one after the other, as many as a disk holds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace tasuki {

// Rows that are added once and read in any order. Of the tokens the last few MiB are in memory;
// what was added before lies in a file without a name, mapped, from which the system brings in what
// is read and takes back what it needs memory for. So a row costs 8 bytes of memory, however long
// it is. Thread-compatible. Movable, which leaves spans valid.
class TokenRows {
 public:
  TokenRows() = default;  // all in memory
  // The file is in `directory`; where that is no place for a file of that kind, all is in memory.
  explicit TokenRows(std::string directory) : directory_(std::move(directory)) {}
  ~TokenRows();
  TokenRows(TokenRows&& other) noexcept { *this = std::move(other); }
  TokenRows& operator=(TokenRows&& other) noexcept;

  // Does nothing after an error.
  void Add(absl::Span<const int32_t> row);
  // What has gone wrong with Add so far: RESOURCE_EXHAUSTED, DISK_FULL; UNAVAILABLE. Throws
  // std::bad_alloc if there is no memory.
  const absl::Status& status() const { return status_; }

  int64_t size() const { return static_cast<int64_t>(ends_.size()); }
  int64_t tokens() const { return static_cast<int64_t>(count_); }
  // Valid as long as these rows are.
  absl::Span<const int32_t> operator[](int64_t row) const {
    const int64_t begin = row == 0 ? 0 : ends_[row - 1];
    return absl::MakeConstSpan(tokens_ + begin, ends_[row] - begin);
  }

 private:
  void OpenNextPiece();
  void PutAway();

  std::string directory_;
  std::vector<int64_t> ends_;
  size_t count_ = 0;
  size_t writable_ = 0;        // tokens for which there is room, in pieces
  int32_t* tokens_ = nullptr;  // addresses set aside for all there may ever be
  int file_ = -1;
  absl::Status status_;
};

}  // namespace tasuki
