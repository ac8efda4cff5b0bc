#include "model/text/bad_rows.h"

#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/text/utf8.h"

namespace tasuki {
namespace {

constexpr int64_t kListedRows = 20;
constexpr size_t kListedBytes = 1600;

}  // namespace

void BadRows::Add(int64_t row, int64_t line, const RowFault& fault) {
  ++count_;
  if (listed_ == kListedRows || list_.size() > kListedBytes) return;
  absl::StrAppend(&list_, listed_++ > 0 ? "; " : "", "row ", row, " (line ", line, "): ");
  if (!fault.column.empty()) absl::StrAppend(&list_, "column ", Excerpt(fault.column), " ");
  absl::StrAppend(&list_, fault.cause);
  if (!fault.value.empty()) absl::StrAppend(&list_, ": ", Excerpt(fault.value));
}

absl::Status BadRows::ToStatus(int64_t rows) const {
  std::string message = absl::StrCat(count_, " of ", rows, " rows are malformed: ", list_);
  if (count_ > listed_) absl::StrAppend(&message, "; and ", count_ - listed_, " more");
  return MakeError(absl::StatusCode::kInvalidArgument, v1::ROWS_INVALID, message,
                   {{"bad_row_count", absl::StrCat(count_)}});
}

}  // namespace tasuki
