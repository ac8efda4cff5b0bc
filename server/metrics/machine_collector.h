// Series that are read from the system at each scrape: process_* and the volumes.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"

namespace tasuki {

// Thread-safe. A figure that the system does not give is left out.
class MachineCollector : public prometheus::Collectable {
 public:
  std::vector<prometheus::MetricFamily> Collect() const override;
  // Reports the volume that holds `path` under the label `volume`.
  void AddVolume(const std::string& volume, const std::string& path);

 private:
  mutable absl::Mutex mutex_;
  std::vector<std::pair<std::string, std::string>> volumes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tasuki
