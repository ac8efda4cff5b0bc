#include "server/jobs/trainer_log.h"

#include <algorithm>
#include <cstdint>
#include <fstream>

#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "model/errors/utf8.h"

namespace tasuki {
namespace {

constexpr int64_t kMaxTailBytes = int64_t{1} << 20;
constexpr size_t kMaxLineBytes = 4096;

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
