// The texts of a file, one after the other: lines, or a column of TSV, CSV or JSON Lines, read as
// `tasuki dataset upload` reads them. UTF-8 with or without BOM; LF or CRLF.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tasuki::cli {

struct TextFormat {
  enum Kind { kLines, kTsv, kCsv, kJsonLines };
  Kind kind = kLines;
  bool quoting = true;  // of TSV and CSV: RFC 4180
  std::string text_column = "text";

  // By the end of a file's name; lines if it says nothing.
  static Kind KindOf(const std::string& path);
};

// Holds one record at a time. Not thread-safe.
class TextFile {
 public:
  // Opens `path`; "-" is standard input. NOT_FOUND or what else the system said; INVALID_ARGUMENT
  // if the header lacks the column.
  static absl::StatusOr<std::unique_ptr<TextFile>> Open(const std::string& path,
                                                        const TextFormat& format);

  // The next text; nothing at the end. INVALID_ARGUMENT with the line: not UTF-8, no text.
  absl::StatusOr<std::optional<std::string>> Next();

  // Whether something can be read without waiting for it.
  bool at_hand();

  // How far it has been read, and its size; -1 if that is unknown.
  int64_t done_bytes() const { return done_bytes_; }
  int64_t total_bytes() const { return total_bytes_; }

 private:
  TextFile(std::shared_ptr<std::istream> input, std::string name, TextFormat format)
      : input_(std::move(input)), name_(std::move(name)), format_(std::move(format)) {}
  absl::Status ReadHeader();
  // The next line without its end; false at the end of the file.
  absl::StatusOr<bool> ReadLine(std::string& line);
  // The next record that is not blank, in `fields`; false at the end.
  absl::StatusOr<bool> ReadRecord(std::vector<std::string>& fields);
  absl::StatusOr<std::string> TextOfJson(const std::string& line) const;
  absl::Status Fault(absl::string_view what) const;

  const std::shared_ptr<std::istream> input_;
  const std::string name_;
  const TextFormat format_;
  size_t text_field_ = 0, field_count_ = 0;
  int64_t line_ = 0;         // lines read
  int64_t record_line_ = 0;  // where the record begins
  int64_t done_bytes_ = 0;
  int64_t total_bytes_ = -1;
};

}  // namespace tasuki::cli
