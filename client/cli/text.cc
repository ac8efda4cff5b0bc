#include "client/cli/text.h"

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "model/errors/utf8.h"

namespace tasuki::cli {
namespace {

struct Range {
  char32_t first, last;
};

// Unicode's East Asian Width W and F, in the blocks that are in use.
constexpr Range kWide[] = {
    {0x1100, 0x115F},   {0x231A, 0x231B},   {0x2329, 0x232A},   {0x23E9, 0x23EC},
    {0x25FD, 0x25FE},   {0x2614, 0x2615},   {0x2648, 0x2653},   {0x26A1, 0x26A1},
    {0x26BD, 0x26BE},   {0x2705, 0x2705},   {0x270A, 0x270B},   {0x2728, 0x2728},
    {0x274C, 0x274E},   {0x2753, 0x2755},   {0x2795, 0x2797},   {0x2B1B, 0x2B1C},
    {0x2B50, 0x2B55},   {0x2E80, 0x303E},   {0x3041, 0x33FF},   {0x3400, 0x4DBF},
    {0x4E00, 0xA4CF},   {0xA960, 0xA97F},   {0xAC00, 0xD7A3},   {0xF900, 0xFAFF},
    {0xFE10, 0xFE19},   {0xFE30, 0xFE6F},   {0xFF00, 0xFF60},   {0xFFE0, 0xFFE6},
    {0x1F300, 0x1F64F}, {0x1F680, 0x1F6FF}, {0x1F7E0, 0x1F7EB}, {0x1F900, 0x1F9FF},
    {0x1FA70, 0x1FAFF}, {0x20000, 0x3FFFD}};

// Combining marks, joiners and variation selectors, which add nothing to what they follow.
constexpr Range kZero[] = {{0x0300, 0x036F}, {0x200B, 0x200F},  {0x20D0, 0x20FF},
                           {0x3099, 0x309A}, {0xFE00, 0xFE0F},  {0xFE20, 0xFE2F},
                           {0xFEFF, 0xFEFF}, {0xE0100, 0xE01EF}};

template <size_t n>
bool In(const Range (&ranges)[n], char32_t c) {
  return std::any_of(std::begin(ranges), std::end(ranges),
                     [c](const Range& range) { return range.first <= c && c <= range.last; });
}

// Takes the next character off the front of `text`; kInvalid (and one byte off) if it is not UTF-8.
constexpr char32_t kInvalid = 0xFFFFFFFF;
char32_t TakeCharacter(absl::string_view& text) {
  const size_t size = CharacterLength(text);
  char32_t c = size == 0 ? kInvalid : size == 1 ? text[0] : text[0] & (0x7F >> size);
  for (size_t i = 1; i < size; ++i) c = c << 6 | (text[i] & 0x3F);
  text.remove_prefix(std::max<size_t>(size, 1));
  return c;
}

// C0, C1 and the marks that reverse the direction of writing.
bool IsControl(char32_t c) {
  return c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0x2028 || c == 0x2029 ||
         (c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
}

int WidthOf(char32_t c) { return In(kZero, c) ? 0 : In(kWide, c) ? 2 : 1; }

}  // namespace

std::string Printable(absl::string_view text) {
  std::string printable;
  while (!text.empty()) {
    const absl::string_view rest = text;
    const char32_t c = TakeCharacter(text);
    if (c == kInvalid) {
      printable += "\uFFFD";
    } else if (IsControl(c)) {
      printable += ' ';
    } else {
      absl::StrAppend(&printable, rest.substr(0, rest.size() - text.size()));
    }
  }
  return printable;
}

int DisplayWidth(absl::string_view text) {
  int width = 0;
  while (!text.empty()) width += WidthOf(TakeCharacter(text));
  return width;
}

std::string Shorten(absl::string_view text, int columns) {
  if (DisplayWidth(text) <= columns) return std::string(text);
  absl::string_view rest = text;
  int width = 0;
  size_t end = 0;
  while (!rest.empty()) {
    width += WidthOf(TakeCharacter(rest));
    if (width > columns - 3) break;
    end = text.size() - rest.size();
  }
  return absl::StrCat(text.substr(0, end), "...");
}

std::string Count(int64_t count) {
  std::string digits = absl::StrCat(count);
  const int first = count < 0 ? 1 : 0;
  for (int i = static_cast<int>(digits.size()) - 3; i > first; i -= 3) digits.insert(i, ",");
  return digits;
}

std::string Bytes(int64_t bytes) {
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  auto size = static_cast<double>(bytes);
  const char* const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (size >= 1024 && unit + 1 < std::size(units)) {
    size /= 1024;
    ++unit;
  }
  return absl::StrFormat("%.1f %s", size, units[unit]);
}

std::string Figure(double figure) { return absl::StrFormat("%.4f", figure); }

std::string Span(absl::Duration duration) {
  const int64_t seconds = absl::ToInt64Seconds(duration + absl::Milliseconds(500));
  if (seconds < 60) return absl::StrFormat("%d s", seconds);
  if (seconds < 3600) return absl::StrFormat("%d min %02d s", seconds / 60, seconds % 60);
  return absl::StrFormat("%d h %02d min", seconds / 3600, seconds / 60 % 60);
}

std::string DateTime(const google::protobuf::Timestamp& time) {
  if (time.seconds() == 0) return "-";
  return absl::FormatTime("%Y-%m-%d %H:%M:%S", absl::FromUnixSeconds(time.seconds()),
                          absl::LocalTimeZone());
}

}  // namespace tasuki::cli
