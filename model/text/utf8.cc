#include "model/text/utf8.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tasuki {
namespace {

constexpr size_t kExcerptBytes = 24;

}  // namespace

std::string Excerpt(absl::string_view value) {
  std::string excerpt = "\"";
  size_t at = 0;
  while (at < value.size()) {
    const size_t length = CharacterLength(value.substr(at));
    if (at + std::max<size_t>(length, 1) > kExcerptBytes) break;
    const auto first = static_cast<uint8_t>(value[at]);
    if (length == 0 || first < 0x20 || first == 0x7F) {
      absl::StrAppendFormat(&excerpt, "\\x%02X", first);
    } else {
      absl::StrAppend(&excerpt, value.substr(at, length));
    }
    at += std::max<size_t>(length, 1);
  }
  absl::StrAppend(&excerpt, at < value.size() ? "…\"" : "\"");
  return excerpt;
}

}  // namespace tasuki
