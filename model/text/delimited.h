// Records and fields of CSV and TSV (RFC 4180) in a file that arrives in pieces.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace tasuki {

// Cuts a file into records: lines, except that a quoted field may hold line ends. Where the pieces
// are cut makes no difference. Memory: one record. Not thread-safe.
class RecordSplitter {
 public:
  struct Record {
    absl::string_view bytes;  // without the line end (LF or CRLF)
    int64_t line = 1;         // line on which it begins, from 1
    int64_t offset = 0;       // of its first byte
    bool too_long = false;    // over the limit; `bytes` is its beginning
  };
  using Sink = std::function<absl::Status(const Record&)>;

  // `delimiter` separates fields, some of which may be quoted; without one, a record is a line.
  // A record of more than `max_bytes` ends at the next line end, inside quotes or not.
  RecordSplitter(std::optional<char> delimiter, size_t max_bytes);
  // An error of the sink is returned at once.
  absl::Status Feed(absl::string_view bytes, const Sink& sink);
  // Hands on the last record if the file did not end with a line end.
  absl::Status Finish(const Sink& sink);

 private:
  enum class State { kFieldStart, kInField, kInQuotes, kAfterQuote };

  State Next(char c) const;
  absl::Status EndRecord(const Sink& sink);

  const std::optional<char> delimiter_;
  const size_t max_bytes_;
  State state_ = State::kFieldStart;
  std::string record_;
  bool too_long_ = false;
  int64_t line_ = 1, record_line_ = 1;
  int64_t offset_ = 0, record_offset_ = 0;
};

// What is wrong with a record, and in which of its fields (from 0).
struct BadField {
  size_t field = 0;
  const char* cause = nullptr;
};

// Splits a record into `fields`. With `quoting`, a field that begins with a double quote ends with
// one, and a doubled one stands for one; elsewhere a double quote is a character like any other.
std::optional<BadField> SplitFields(absl::string_view record, char delimiter, bool quoting,
                                    std::vector<std::string>& fields);

}  // namespace tasuki
