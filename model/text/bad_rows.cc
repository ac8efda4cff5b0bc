#include "model/text/bad_rows.h"

#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/text/utf8.h"

namespace tasuki {
namespace {

constexpr size_t kKeptRows = 1000;
constexpr size_t kListedRows = 20;
constexpr size_t kListedBytes = 1600;

}  // namespace

void BadRows::Add(int64_t row, int64_t line, const RowFault& fault) {
  ++count_;
  if (rows_.size() == kKeptRows) return;
  Row& kept = rows_.emplace_back();
  kept.set_row(row);
  kept.set_line(line);
  // What is told of a file that is not UTF-8 has to be.
  if (!fault.column.empty()) kept.set_column(Excerpt(fault.column));
  kept.set_cause(fault.cause);
  if (!fault.value.empty()) kept.set_value(Excerpt(fault.value));
}

absl::Status BadRows::ToStatus(int64_t rows) const {
  std::string message = absl::StrCat(count_, " of ", rows, " rows are malformed: ");
  size_t listed = 0;
  std::string list;
  for (const Row& row : rows_) {
    if (listed == kListedRows || list.size() > kListedBytes) break;
    absl::StrAppend(&list, listed++ > 0 ? "; " : "", "row ", row.row(), " (line ", row.line(),
                    "): ", row.column().empty() ? "" : "column ", row.column(),
                    row.column().empty() ? "" : " ", row.cause(), row.value().empty() ? "" : ": ",
                    row.value());
  }
  absl::StrAppend(&message, list);
  if (count_ > listed) absl::StrAppend(&message, "; and ", count_ - listed, " more");
  return MakeError(absl::StatusCode::kInvalidArgument, v1::ROWS_INVALID, message,
                   {{"bad_row_count", absl::StrCat(count_)}});
}

}  // namespace tasuki
