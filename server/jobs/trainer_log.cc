#include "server/jobs/trainer_log.h"

#include <algorithm>
#include <cstdint>
#include <fstream>

#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace tasuki {
namespace {

constexpr int64_t kMaxTailBytes = int64_t{1} << 20;
constexpr size_t kMaxLineBytes = 4096;

// Length of the UTF-8 sequence at the beginning of `text`; 0 if there is none (Unicode 15, table 3-7).
size_t SequenceLength(absl::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xC2 && lead <= 0xDF ? 2 : (lead & 0xF0) == 0xE0 ? 3
                        : lead >= 0xF0 && lead <= 0xF4 ? 4 : 0;
  if (length == 0 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  const uint8_t second = byte(1);
  const bool overlong = (lead == 0xE0 && second < 0xA0) || (lead == 0xF0 && second < 0x90);
  const bool surrogate = lead == 0xED && second > 0x9F;
  const bool beyond = lead == 0xF4 && second > 0x8F;
  return overlong || surrogate || beyond ? 0 : length;
}

std::string ToUtf8(absl::string_view text) {
  std::string valid;
  valid.reserve(text.size());
  while (!text.empty()) {
    const size_t length = SequenceLength(text);
    valid.append(length > 0 ? text.substr(0, length) : absl::string_view("\xEF\xBF\xBD"));
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  return valid;
}

}  // namespace

std::vector<std::string> LastLogLines(const std::string& path, int count) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return {};
  const int64_t size = file.tellg();
  const int64_t begin = std::max<int64_t>(0, size - kMaxTailBytes);
  std::string tail(static_cast<size_t>(size - begin), '\0');
  file.seekg(begin);
  file.read(tail.data(), static_cast<std::streamsize>(tail.size()));
  tail.resize(static_cast<size_t>(file.gcount()));

  std::vector<absl::string_view> lines = absl::StrSplit(tail, '\n');
  if (lines.back().empty()) lines.pop_back();
  if (begin > 0 && !lines.empty()) lines.erase(lines.begin());  // begins within a line
  const size_t first = lines.size() - std::min(lines.size(), static_cast<size_t>(count));
  std::vector<std::string> answer;
  for (size_t i = first; i < lines.size(); ++i) {
    answer.push_back(ToUtf8(lines[i].substr(0, kMaxLineBytes)));
  }
  return answer;
}

}  // namespace tasuki
