// The functions of NVML that DeviceCollector uses, for two GPUs that are not there.
#include <cstdint>

namespace {
int gpus[2];
constexpr int kNotSupported = 3;
struct Memory {
  unsigned long long total, free, used;
};
struct Utilization {
  unsigned int gpu, memory;
};
}  // namespace

extern "C" {
int nvmlInit_v2() { return 0; }
int nvmlShutdown() { return 0; }
int nvmlDeviceGetCount_v2(unsigned int* count) {
  *count = 2;
  return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void** device) {
  *device = &gpus[index];
  return 0;
}
int nvmlDeviceGetMemoryInfo(void* device, Memory* memory) {
  const unsigned long long used = device == &gpus[0] ? 1000 : 2000;
  *memory = {80000, 80000 - used, used};
  return 0;
}
int nvmlDeviceGetUtilizationRates(void*, Utilization* utilization) {
  *utilization = {25, 10};
  return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(void* device, unsigned long long* millijoules) {
  if (device == &gpus[1]) return kNotSupported;
  *millijoules = 1500;
  return 0;
}
}
