// Reading examples: uploaded files row by row, and the canonical form that is stored.
//
// Canonical form: one JSON object a line, {"text":…,"label":…} in this order, "label" left out in a
// dataset of texts only; UTF-8, non-ASCII unescaped, '\n' after every line. Texts are kept as they
// are: no trimming, no normalisation (the tokenizer has its own).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tasuki/v1/datasets.pb.h"

namespace tasuki {

inline constexpr size_t kMaxTextBytes = size_t{1} << 20;  // 1 MiB
inline constexpr size_t kMaxLineBytes = size_t{4} << 20;  // of the uploaded file
inline constexpr size_t kMaxLabelBytes = 256;

// Parses an uploaded file that arrives in pieces of any size and hands on its rows.
//
//   RowParser parser(format, [&](v1::Example example) { return Keep(std::move(example)); });
//   while (...) RETURN_IF_ERROR(parser.Feed(bytes));
//   RETURN_IF_ERROR(parser.Finish());
//
// Errors (all INVALID_ARGUMENT): FIELD_INVALID (the format); DATASET_EMPTY; COLUMN_MISSING (naming
// the columns there are); UNSUPPORTED_FORMAT (gzip, zip, parquet, PDF, UTF-16 by their first
// bytes); ROWS_INVALID with the first 20 bad rows and their number: row (1 is the first after the
// header) and line, column, cause, value. Bad rows: wrong number of fields, unclosed quote, invalid
// UTF-8 (with byte offset), NUL, text over kMaxTextBytes, missing or empty label, in JSONL also bad
// JSON, duplicate keys and values that are not strings (numbers are taken for labels: 0 is "0"),
// with value_mapping a label that it does not have. Without a header the first row that can be
// split says how many columns there are. Memory: one line. Not thread-safe.
class RowParser {
 public:
  using Sink = std::function<absl::Status(v1::Example)>;
  RowParser(const v1::DatasetFormat& format, Sink sink);
  ~RowParser();
  // An error of the sink is returned at once; bad rows are collected until Finish.
  absl::Status Feed(absl::string_view bytes);
  absl::Status Finish();
  // Valid after Finish: rows handed on, whether they have labels, columns that were not kept.
  int64_t row_count() const;
  bool labelled() const;
  const std::vector<std::string>& ignored_columns() const;
  // Also after Finish answered ROWS_INVALID: malformed rows, and the first 1,000 of them.
  int64_t bad_row_count() const;
  const std::vector<v1::CheckDatasetResponse::BadRow>& bad_rows() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// The canonical line of an example, with its '\n'.
std::string CanonicalLine(const v1::Example& example, bool labelled);

// Reads a canonical file, calling `sink` for each row (from 0); stops at its first error, or after
// `max_rows` if that is not negative. DATA_LOSS, FILE_CHANGED if malformed; NOT_FOUND.
absl::Status ReadExamples(const std::string& path,
                          const std::function<absl::Status(int64_t row, v1::Example)>& sink,
                          int64_t max_rows = -1);

}  // namespace tasuki
