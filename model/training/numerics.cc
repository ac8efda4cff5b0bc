#include "model/training/numerics.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <new>

#include "absl/strings/match.h"
#include "model/t5/kernels.h"

namespace tasuki {

std::string SetNumerics(int threads, const std::string& kernels) {
  const Kernels* const named = KernelsNamed(kernels);
  const Kernels& used = named != nullptr ? *named : *AvailableKernels().front();
  UseKernels(used);
  at::set_num_threads(threads);
  at::parallel_for(0, threads, 1,
                   [](int64_t, int64_t) { at::globalContext().setFlushDenormal(true); });
  at::globalContext().setFlushDenormal(true);
  return used.name;
}

WeightMap OnDevice(WeightMap weights, const std::string& device) {
  for (auto& [name, weight] : weights) weight = weight.to(at::Device(device));
  return weights;
}

bool SaysOutOfMemory(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return true;
  const auto* const torch = dynamic_cast<const c10::Error*>(&error);
  if (torch == nullptr) return false;
  // "DefaultCPUAllocator: can't allocate memory: …"; "CUDA out of memory."
  const char* const what = torch->what_without_backtrace();
  return absl::StrContains(what, "allocate memory") || absl::StrContains(what, "out of memory");
}

}  // namespace tasuki
