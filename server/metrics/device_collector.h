// Series of the GPUs, read at each scrape by NVML, which comes with NVIDIA's driver: where it is
// not, there are none.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"

namespace tasuki {

// Thread-safe. A figure that a GPU does not give is left out.
class DeviceCollector : public prometheus::Collectable {
 public:
  explicit DeviceCollector(const std::string& library = "libnvidia-ml.so.1");
  ~DeviceCollector() override;
  DeviceCollector(const DeviceCollector&) = delete;
  DeviceCollector& operator=(const DeviceCollector&) = delete;

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  struct Nvml;
  // Constant after construction.
  void* library_ = nullptr;
  std::unique_ptr<const Nvml> nvml_;  // null: no GPU
  std::vector<void*> devices_;
};

}  // namespace tasuki
