// One line of JSON Lines as a row of examples.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "model/text/bad_rows.h"

namespace tasuki {

struct JsonRow {
  std::optional<std::string> text;
  std::optional<std::string> label;
  std::vector<std::string> other_keys;
};

// Reads an object whose values under `text_key` and `label_key` (unless empty) are strings; a
// number is taken for a label as it is written. Refuses a key that comes twice, and nesting over 64
// levels. `line` must be UTF-8.
std::optional<RowFault> ParseJsonRow(absl::string_view line, absl::string_view text_key,
                                     absl::string_view label_key, JsonRow& row);

}  // namespace tasuki
