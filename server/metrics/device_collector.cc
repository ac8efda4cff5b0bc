#include "server/metrics/device_collector.h"

#include <dlfcn.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/metrics/families.h"

namespace tasuki {
namespace {

using prometheus::MetricFamily;
using prometheus::MetricType;

constexpr int kSuccess = 0;

// nvml.h: nvmlMemory_t and nvmlUtilization_t.
struct Memory {
  unsigned long long total, free, used;
};
struct Utilization {
  unsigned int gpu, memory;  // percent
};

}  // namespace

// The functions of NVML that are used, by their names there.
struct DeviceCollector::Nvml {
  int (*init)();
  int (*shutdown)();
  int (*count)(unsigned int*);
  int (*handle)(unsigned int, void**);
  int (*memory)(void*, Memory*);
  int (*utilization)(void*, Utilization*);
  int (*energy)(void*, unsigned long long*);  // millijoules since the driver was loaded

  // False if one is not there.
  bool Find(void* library) {
    const auto find = [library](const char* name, auto& function) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
      return function != nullptr;
    };
    return find("nvmlInit_v2", init) && find("nvmlShutdown", shutdown) &&
           find("nvmlDeviceGetCount_v2", count) && find("nvmlDeviceGetHandleByIndex_v2", handle) &&
           find("nvmlDeviceGetMemoryInfo", memory) &&
           find("nvmlDeviceGetUtilizationRates", utilization) &&
           find("nvmlDeviceGetTotalEnergyConsumption", energy);
  }
};

DeviceCollector::DeviceCollector(const std::string& library)
    : library_(dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL)) {
  if (library_ == nullptr) return;
  auto nvml = std::make_unique<Nvml>();
  if (!nvml->Find(library_) || nvml->init() != kSuccess) return;
  unsigned int count = 0;
  if (nvml->count(&count) != kSuccess) count = 0;
  for (unsigned int i = 0; i < count; ++i) {
    void* device = nullptr;
    if (nvml->handle(i, &device) == kSuccess) devices_.push_back(device);
  }
  nvml_ = std::move(nvml);
}

DeviceCollector::~DeviceCollector() {
  if (nvml_ != nullptr) nvml_->shutdown();
  if (library_ != nullptr) dlclose(library_);
}

std::vector<MetricFamily> DeviceCollector::Collect() const {
  std::vector<MetricFamily> families;
  if (nvml_ == nullptr) return families;
  MetricFamily used = Family("tasuki_device_memory_used_bytes",
                             "Memory of a GPU that is used, by whomever.", MetricType::Gauge);
  MetricFamily total =
      Family("tasuki_device_memory_total_bytes", "Memory of a GPU.", MetricType::Gauge);
  MetricFamily utilization =
      Family("tasuki_device_utilization_ratio",
             "Share of the last moments in which a GPU computed.", MetricType::Gauge);
  MetricFamily energy = Family("tasuki_device_energy_joules_total",
                               "Energy that a GPU has used since its driver was loaded, in joules.",
                               MetricType::Counter);
  for (size_t i = 0; i < devices_.size(); ++i) {
    const auto add = [device = absl::StrCat(i)](MetricFamily& family, double value) {
      AddSample(family, value, "device", device);
    };
    Memory memory{};
    if (nvml_->memory(devices_[i], &memory) == kSuccess) {
      add(used, static_cast<double>(memory.used));
      add(total, static_cast<double>(memory.total));
    }
    Utilization of{};
    if (nvml_->utilization(devices_[i], &of) == kSuccess) add(utilization, of.gpu / 100.);
    unsigned long long millijoules = 0;
    if (nvml_->energy(devices_[i], &millijoules) == kSuccess) {
      add(energy, static_cast<double>(millijoules) / 1000);
    }
  }
  for (MetricFamily* family : {&used, &total, &utilization, &energy}) {
    if (!family->metric.empty()) families.push_back(std::move(*family));
  }
  return families;
}

}  // namespace tasuki
