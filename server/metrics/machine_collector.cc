#include "server/metrics/machine_collector.h"

#include <dirent.h>
#include <malloc.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "server/metrics/families.h"
#include "server/metrics/memory_limit.h"

namespace tasuki {
namespace {

using prometheus::MetricFamily;
using prometheus::MetricType;

constexpr absl::Duration kLookEvery = absl::Minutes(1);

std::string ReadAll(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Seconds since the epoch at which the system started; 0 if not told.
double BootTime() {
  const std::string stat = ReadAll("/proc/stat");
  for (absl::string_view line : absl::StrSplit(stat, '\n')) {
    double seconds = 0;
    if (absl::ConsumePrefix(&line, "btime ") && absl::SimpleAtod(line, &seconds)) return seconds;
  }
  return 0;
}

double OpenFiles() {
  DIR* directory = opendir("/proc/self/fd");
  if (directory == nullptr) return 0;
  int entries = 0;
  while (readdir(directory) != nullptr) ++entries;
  closedir(directory);
  return entries - 3;  // ".", ".." and the directory itself
}

// Of the files in and below `path`, as the disk has them. What goes meanwhile does not count.
double BytesOf(const std::string& path) {
  double bytes = 0;
  const auto add = [&bytes](const std::string& file) {
    struct stat state {};
    if (lstat(file.c_str(), &state) == 0 && S_ISREG(state.st_mode)) {
      bytes += static_cast<double>(state.st_blocks) * 512;  // POSIX: whatever st_blksize is
    }
  };
  add(path);
  std::error_code error;
  std::filesystem::recursive_directory_iterator entry(path, error);
  for (; !error && entry != std::filesystem::recursive_directory_iterator();
       entry.increment(error)) {
    add(entry->path());
  }
  return bytes;
}

// Of the processes that this one has started and not waited for; negative if the system does not
// tell them.
double ResidentBytesOfChildren() {
  std::error_code error;
  double pages = -1;
  for (const auto& thread : std::filesystem::directory_iterator("/proc/self/task", error)) {
    std::ifstream children(thread.path() / "children");
    if (!children) continue;
    pages = std::max(pages, 0.);
    for (std::string pid; children >> pid;) {
      std::ifstream memory("/proc/" + pid + "/statm");
      double size = 0, resident = 0;
      if (memory >> size >> resident) pages += resident;  // unless it has ended meanwhile
    }
  }
  return pages * static_cast<double>(sysconf(_SC_PAGESIZE));
}

double Limit(__rlimit_resource resource) {
  rlimit limit{};
  getrlimit(resource, &limit);
  return static_cast<double>(limit.rlim_cur);
}

void CollectProcess(std::vector<MetricFamily>& families) {
  const auto add = [&](const char* name, const char* help, MetricType type, double value) {
    families.push_back(Family(name, help, type));
    AddSample(families.back(), value);
  };
  constexpr MetricType kGauge = MetricType::Gauge;
  add("process_open_fds", "Number of open file descriptors.", kGauge, OpenFiles());
  add("process_max_fds", "Maximum number of open file descriptors.", kGauge, Limit(RLIMIT_NOFILE));
  add("process_virtual_memory_max_bytes", "Maximum amount of virtual memory available in bytes.",
      kGauge, Limit(RLIMIT_AS));
  const auto heap = mallinfo2();
  add("process_heap_bytes", "Process heap size in bytes.", kGauge,
      static_cast<double>(heap.uordblks + heap.hblkhd));

  // The command, which may hold anything, ends with the last parenthesis; then comes field 3.
  const std::string stat = ReadAll("/proc/self/stat");
  const size_t command_end = stat.rfind(')');
  if (command_end == std::string::npos) return;
  const std::vector<std::string> fields = absl::StrSplit(stat.substr(command_end + 2), ' ');
  if (fields.size() < 22) return;
  const auto field = [&](int number) {
    double value = 0;
    return absl::SimpleAtod(fields[number - 3], &value) ? value : 0;
  };
  const auto ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  add("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.",
      MetricType::Counter, (field(14) + field(15)) / ticks);
  add("process_threads", "Number of OS threads in the process.", kGauge, field(20));
  add("process_start_time_seconds", "Start time of the process since unix epoch in seconds.",
      kGauge, BootTime() + field(22) / ticks);
  add("process_virtual_memory_bytes", "Virtual memory size in bytes.", kGauge, field(23));
  add("process_resident_memory_bytes", "Resident memory size in bytes.", kGauge,
      field(24) * static_cast<double>(sysconf(_SC_PAGESIZE)));
}

}  // namespace

std::vector<MetricFamily> MachineCollector::Collect() const {
  std::vector<MetricFamily> families;
  CollectProcess(families);
  if (const int64_t limit = MemoryLimitBytes(); limit > 0) {
    families.push_back(Family(
        "tasuki_memory_limit_bytes",
        "Memory that the server and its trainer may have together: the container's limit, or "
        "the machine's memory.",
        MetricType::Gauge));
    AddSample(families.back(), static_cast<double>(limit));
  }
  if (const double bytes = ResidentBytesOfChildren(); bytes >= 0) {
    families.push_back(Family("tasuki_trainer_resident_memory_bytes",
                              "Resident memory of the trainers that run, 0 while none does.",
                              MetricType::Gauge));
    AddSample(families.back(), bytes);
  }
  MetricFamily free =
      Family("tasuki_volume_free_bytes", "Bytes that the server may still write to a volume.",
             MetricType::Gauge);
  MetricFamily size =
      Family("tasuki_volume_size_bytes", "Size of a volume in bytes.", MetricType::Gauge);
  MetricFamily artifacts =
      Family("tasuki_artifact_bytes", "Bytes on disk by what they hold, looked at once a minute.",
             MetricType::Gauge);
  absl::MutexLock lock(&mutex_);
  const absl::Time now = absl::Now();
  for (auto& [kind, files] : files_) {
    if (now - files.looked_at >= kLookEvery) {
      files.bytes = BytesOf(files.path);
      files.looked_at = now;
    }
    if (artifacts.metric.empty() || artifacts.metric.back().label.front().value != kind) {
      AddSample(artifacts, 0, "kind", kind);
    }
    artifacts.metric.back().gauge.value += files.bytes;
  }
  if (!artifacts.metric.empty()) families.push_back(std::move(artifacts));
  for (const auto& [volume, path] : volumes_) {
    struct statvfs state {};
    if (statvfs(path.c_str(), &state) != 0) continue;
    const auto block = static_cast<double>(state.f_frsize);
    AddSample(free, static_cast<double>(state.f_bavail) * block, "volume", volume);
    AddSample(size, static_cast<double>(state.f_blocks) * block, "volume", volume);
  }
  if (!free.metric.empty()) {
    families.push_back(std::move(free));
    families.push_back(std::move(size));
  }
  return families;
}

void MachineCollector::AddVolume(const std::string& volume, const std::string& path) {
  absl::MutexLock lock(&mutex_);
  volumes_.emplace_back(volume, path);
}

void MachineCollector::AddFiles(const std::string& kind, const std::string& path) {
  absl::MutexLock lock(&mutex_);
  files_.emplace(kind, Files{path});
}

}  // namespace tasuki
