#include "model/text/examples.h"

#include <fstream>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/text/json_row.h"
#include "model/text/utf8.h"
#include "nlohmann/json.hpp"

namespace tasuki {
namespace {

absl::Status Changed(const std::string& path, absl::string_view what) {
  return MakeError(absl::StatusCode::kDataLoss, v1::FILE_CHANGED,
                   absl::StrCat(path, " has changed since it was written: ", what));
}

}  // namespace

std::string CanonicalLine(const v1::Example& example, bool labelled) {
  std::string line = absl::StrCat("{\"text\":", nlohmann::json(example.text()).dump());
  if (labelled) absl::StrAppend(&line, ",\"label\":", nlohmann::json(example.label()).dump());
  return absl::StrCat(line, "}\n");
}

absl::Status ReadExamples(const std::string& path,
                          const std::function<absl::Status(int64_t row, v1::Example)>& sink,
                          int64_t max_rows) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return MakeError(absl::StatusCode::kNotFound, v1::RESOURCE_NOT_FOUND,
                     absl::StrCat("cannot open ", path));
  }
  std::string line;
  JsonRow row;
  bool labelled = false;
  int64_t number = 0;
  for (; number != max_rows && std::getline(file, line); ++number) {
    std::optional<RowFault> fault;
    if (file.eof()) fault = RowFault{"", "ends before its line does", ""};
    if (!fault && FirstInvalidUtf8(line) != line.npos) fault = RowFault{"", "is not UTF-8", ""};
    if (!fault) fault = ParseJsonRow(line, "text", "label", row);
    if (!fault && number == 0) labelled = row.label.has_value();
    if (!fault && !row.text) fault = RowFault{"text", "is missing", ""};
    if (!fault && row.label.has_value() != labelled) {
      fault = RowFault{"label", "is not in every row", ""};
    }
    if (fault) {
      return Changed(path, absl::StrCat("row ", number + 1, " ", fault->column,
                                        fault->column.empty() ? "" : " ", fault->cause));
    }
    v1::Example example;
    example.set_text(*std::move(row.text));
    if (labelled) example.set_label(*std::move(row.label));
    if (absl::Status status = sink(number, std::move(example)); !status.ok()) return status;
  }
  if (file.bad()) {
    return MakeError(absl::StatusCode::kUnavailable, v1::STORE_UNAVAILABLE,
                     absl::StrCat("cannot read ", path));
  }
  return number == 0 && max_rows != 0 ? Changed(path, "it is empty") : absl::OkStatus();
}

}  // namespace tasuki
