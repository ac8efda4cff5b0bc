#include "client/cli/table.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/cli/text.h"

namespace tasuki::cli {

Table::Table(std::vector<std::string> headers) {
  for (std::string& header : headers) {
    to_the_right_.push_back(header.back() == '>');
    if (to_the_right_.back()) header.pop_back();
  }
  rows_.push_back(std::move(headers));
}

void Table::Add(std::vector<std::string> cells) {
  for (std::string& cell : cells) cell = Printable(cell);
  rows_.push_back(std::move(cells));
}

std::string Table::ToString() const {
  std::vector<int> widths(to_the_right_.size());
  for (const auto& row : rows_) {
    for (size_t i = 0; i < widths.size(); ++i)
      widths[i] = std::max(widths[i], DisplayWidth(row[i]));
  }
  std::string text;
  for (const auto& row : rows_) {
    std::string line;
    for (size_t i = 0; i < widths.size(); ++i) {
      const std::string padding(widths[i] - DisplayWidth(row[i]), ' ');
      absl::StrAppend(&line, i > 0 ? "  " : "", to_the_right_[i] ? padding : "", row[i],
                      to_the_right_[i] ? "" : padding);
    }
    absl::StrAppend(&text, absl::StripTrailingAsciiWhitespace(line), "\n");
  }
  return text;
}

std::string Details(const std::vector<std::pair<std::string, std::string>>& pairs) {
  size_t width = 0;
  for (const auto& [name, value] : pairs) {
    if (!value.empty()) width = std::max(width, name.size());
  }
  std::string text;
  for (const auto& [name, value] : pairs) {
    if (value.empty()) continue;
    absl::StrAppend(&text, name, std::string(width - name.size() + 2, ' '), Printable(value), "\n");
  }
  return text;
}

}  // namespace tasuki::cli
