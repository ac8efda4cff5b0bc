#include "model/text/charsmap.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/text/utf8.h"

namespace tasuki {
namespace {

constexpr size_t kMaxBlobBytes = size_t{16} << 20;
// The longest of NFKC has 33 bytes.
constexpr size_t kMaxReplacementBytes = 64;
constexpr size_t kMaxEntryBytes = 64;

absl::Status Malformed(absl::string_view cause) {
  return MakeError(absl::StatusCode::kInvalidArgument, v1::MODEL_INVALID,
                   absl::StrCat("its normaliser table is malformed: ", cause));
}

}  // namespace

absl::StatusOr<Charsmap> Charsmap::Parse(absl::string_view blob) {
  Charsmap charsmap;
  if (blob.empty()) return charsmap;
  if (blob.size() > kMaxBlobBytes) {
    return Malformed(absl::StrCat("it has ", blob.size(), " bytes, over 16 MiB"));
  }
  uint32_t trie_bytes = 0;
  if (blob.size() < sizeof(trie_bytes)) return Malformed("it is cut short");
  std::memcpy(&trie_bytes, blob.data(), sizeof(trie_bytes));
  blob.remove_prefix(sizeof(trie_bytes));
  if (trie_bytes == 0 || trie_bytes % sizeof(Unit) != 0 || trie_bytes >= blob.size()) {
    return Malformed(absl::StrCat("the trie has ", trie_bytes, " of ", blob.size(), " bytes"));
  }
  if (blob.back() != '\0') return Malformed("the last replacement does not end");
  charsmap.units_.resize(trie_bytes / sizeof(Unit));
  std::memcpy(charsmap.units_.data(), blob.data(), trie_bytes);
  charsmap.replacements_ = std::string(blob.substr(trie_bytes));
  if (const auto fault = charsmap.FindFault()) return Malformed(*fault);
  return charsmap;
}

std::optional<std::string> Charsmap::FindFault() const {
  std::vector<bool> reached(units_.size());
  std::vector<uint32_t> waiting = {0};
  reached[0] = true;
  while (!waiting.empty()) {
    const uint32_t at = waiting.back();
    waiting.pop_back();
    // Its children are at base ^ byte.
    const uint32_t base = at ^ units_[at].offset();
    if ((base | 0xFF) >= units_.size()) return absl::StrCat("unit ", at, " leaves the trie");
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const uint32_t child = base ^ byte;
      const Unit& unit = units_[child];
      if (unit.label() != byte || reached[child]) continue;
      const uint32_t leaf = child ^ unit.offset();
      if (unit.has_leaf() && (leaf >= units_.size() || !IsReplacement(units_[leaf].value()))) {
        return absl::StrCat("unit ", child, " has no valid replacement");
      }
      reached[child] = true;
      waiting.push_back(child);
    }
  }
  return std::nullopt;
}

bool Charsmap::IsReplacement(uint32_t offset) const {
  if (offset >= replacements_.size()) return false;
  const absl::string_view replacement = replacements_.c_str() + offset;
  return replacement.size() <= kMaxReplacementBytes &&
         FirstInvalidUtf8(replacement) == replacement.npos;
}

Charsmap::Match Charsmap::Find(absl::string_view text) const {
  Match match;
  if (units_.empty()) return match;
  uint32_t base = units_[0].offset();
  for (size_t i = 0; i < std::min(text.size(), kMaxEntryBytes); ++i) {
    const uint32_t at = base ^ static_cast<uint8_t>(text[i]);
    const Unit& unit = units_[at];
    if (unit.label() != static_cast<uint8_t>(text[i])) break;
    base = at ^ unit.offset();
    if (unit.has_leaf()) {
      match.length = i + 1;
      match.replacement = replacements_.c_str() + units_[base].value();
    }
  }
  return match;
}

}  // namespace tasuki
