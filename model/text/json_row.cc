#include "model/text/json_row.h"

#include <algorithm>
#include <cstdint>
#include <set>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace tasuki {
namespace {

constexpr int kMaxDepth = 64;

// nlohmann's parser calls these in the order of the text; false stops it.
class RowHandler {
 public:
  RowHandler(absl::string_view text_key, absl::string_view label_key, JsonRow& row)
      : text_key_(text_key), label_key_(label_key), row_(row) {}

  std::optional<RowFault>& fault() { return fault_; }

  bool null() { return NotAString("is null", "null"); }
  bool boolean(bool value) { return NotAString("is not a string", value ? "true" : "false"); }
  bool number_integer(std::int64_t value) { return Number(absl::StrCat(value)); }
  bool number_unsigned(std::uint64_t value) { return Number(absl::StrCat(value)); }
  bool number_float(double, const std::string& literal) { return Number(literal); }
  bool binary(std::vector<std::uint8_t>&) { return false; }
  bool string(std::string& value) {
    if (depth_ == 0) return NotAnObject();
    if (target_ != nullptr) *target_ = std::move(value);
    return true;
  }
  bool start_object(std::size_t) { return Open("is an object, not a string"); }
  bool start_array(std::size_t) {
    return depth_ == 0 ? NotAnObject() : Open("is an array, not a string");
  }
  bool end_object() { return Close(); }
  bool end_array() { return Close(); }

  bool key(std::string& key) {
    if (depth_ != 1) return true;
    if (!seen_.insert(key).second) return Fail(key, "comes twice in this row", "");
    key_ = key;
    target_ = key == text_key_                           ? &row_.text
              : !label_key_.empty() && key == label_key_ ? &row_.label
                                                         : nullptr;
    if (target_ == nullptr) row_.other_keys.push_back(key);
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) {
    return Fail("", absl::StrCat("is not JSON at byte ", position, " of the line"), "");
  }

 private:
  bool Fail(absl::string_view column, std::string cause, std::string value) {
    fault_ = RowFault{std::string(column), std::move(cause), std::move(value)};
    return false;
  }
  bool NotAnObject() { return Fail("", "is not a JSON object", ""); }
  bool NotAString(const char* cause, const char* value) {
    if (depth_ == 0) return NotAnObject();
    return target_ == nullptr || depth_ > 1 || Fail(key_, cause, value);
  }
  bool Number(std::string literal) {
    if (depth_ == 0) return NotAnObject();
    if (target_ == &row_.text && target_ != nullptr) {
      return Fail(key_, "is a number, not a string", std::move(literal));
    }
    if (target_ != nullptr) *target_ = std::move(literal);
    return true;
  }
  bool Open(const char* cause) {
    if (target_ != nullptr) return Fail(key_, cause, "");
    if (++depth_ > kMaxDepth) return Fail("", "is nested too deeply", "");
    return true;
  }
  bool Close() {
    --depth_;
    return true;
  }

  const absl::string_view text_key_, label_key_;
  JsonRow& row_;
  std::optional<RowFault> fault_;
  int depth_ = 0;
  std::set<std::string> seen_;
  std::string key_;
  std::optional<std::string>* target_ = nullptr;  // of the value that comes next
};

}  // namespace

std::optional<RowFault> ParseJsonRow(absl::string_view line, absl::string_view text_key,
                                     absl::string_view label_key, JsonRow& row) {
  row = JsonRow();
  RowHandler handler(text_key, label_key, row);
  nlohmann::json::sax_parse(line.begin(), line.end(), &handler);
  if (handler.fault() && handler.fault()->value.empty() && handler.fault()->column.empty()) {
    handler.fault()->value = std::string(line);
  }
  return std::move(handler.fault());
}

}  // namespace tasuki
