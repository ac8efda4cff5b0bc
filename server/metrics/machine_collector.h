// Series that are read from the system at each scrape: process_*, memory, volumes and files.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"

namespace tasuki {

// Thread-safe. A figure that the system does not give is left out.
class MachineCollector : public prometheus::Collectable {
 public:
  std::vector<prometheus::MetricFamily> Collect() const override;
  // Reports the volume that holds `path` under the label `volume`.
  void AddVolume(const std::string& volume, const std::string& path);
  // Reports the bytes of the file, or of the files in and below the directory, under the label
  // `kind`; of those of one kind the sum. Looked at once a minute.
  void AddFiles(const std::string& kind, const std::string& path);

 private:
  struct Files {
    std::string path;
    double bytes = 0;
    absl::Time looked_at = absl::InfinitePast();
  };
  mutable absl::Mutex mutex_;
  mutable std::multimap<std::string, Files> files_ ABSL_GUARDED_BY(mutex_);  // by kind
  std::vector<std::pair<std::string, std::string>> volumes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tasuki
