#include "server/metrics/memory_limit.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace tasuki {
namespace {

constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

// The file's number; kNone where there is no file, or it says "max".
int64_t LimitIn(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  int64_t bytes = 0;
  return file >> text && absl::SimpleAtoi(text, &bytes) ? bytes : kNone;
}

// Of the group and those above it. Inside a container the path may be that of the machine, which is
// not there; the topmost group is then the container's.
int64_t LimitOf(const std::string& hierarchy, std::string group, const std::string& file) {
  int64_t least = kNone;
  while (true) {
    least = std::min(least, LimitIn(absl::StrCat(hierarchy, group, "/", file)));
    const size_t end = group.rfind('/');
    if (end == std::string::npos) return least;
    group.resize(end);
  }
}

}  // namespace

int64_t MemoryLimitBytes(const std::string& proc, const std::string& cgroups) {
  int64_t least = kNone;
  std::string line;
  for (std::ifstream memory(proc + "/meminfo"); std::getline(memory, line);) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    int64_t kibibytes = 0;
    if (words.size() == 3 && words[0] == "MemTotal:" && absl::SimpleAtoi(words[1], &kibibytes)) {
      least = kibibytes * 1024;
    }
  }
  // hierarchy:controllers:/group, where version 2 has hierarchy 0 and no controllers.
  for (std::ifstream groups(proc + "/self/cgroup"); std::getline(groups, line);) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const std::vector<absl::string_view> controllers = absl::StrSplit(parts[1], ',');
    if (parts[0] == "0" && parts[1].empty()) {
      least = std::min(least, LimitOf(cgroups, parts[2], "memory.max"));
    } else if (std::find(controllers.begin(), controllers.end(), "memory") != controllers.end()) {
      least = std::min(least, LimitOf(cgroups + "/memory", parts[2], "memory.limit_in_bytes"));
    }
  }
  return least == kNone ? 0 : least;
}

}  // namespace tasuki
