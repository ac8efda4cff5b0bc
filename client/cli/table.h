// Tables in plain text, aligned in terminal columns.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace tasuki::cli {

// A table with a header line. Cells may hold any text: what a terminal would obey is taken out.
//
//   Table table({"NAME", "ROWS>"});  // '>' at the end: aligned to the right
//   table.Add({"datasets/d-1", "5,600"});
//   std::cout << table.ToString();
class Table {
 public:
  explicit Table(std::vector<std::string> headers);
  // REQUIRES: as many cells as headers.
  void Add(std::vector<std::string> cells);
  bool empty() const { return rows_.size() == 1; }
  // One line a row, two spaces between columns, no spaces at the ends of lines.
  std::string ToString() const;

 private:
  std::vector<bool> to_the_right_;
  std::vector<std::vector<std::string>> rows_;  // the first holds the headers
};

// "name   value" lines, aligned; pairs with an empty value are left out.
std::string Details(const std::vector<std::pair<std::string, std::string>>& pairs);

}  // namespace tasuki::cli
