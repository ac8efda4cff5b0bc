#include "model/t5/kernels.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

namespace tasuki {

// Each in a file of its own, compiled for its instruction set.
const Kernels* KernelsOf_avx512();
const Kernels* KernelsOf_avx2();
const Kernels* KernelsOf_portable();

const char* PrecisionName(Precision precision) {
  switch (precision) {
    case Precision::kFp32:
      return "fp32";
    case Precision::kBf16:
      return "bf16";
    case Precision::kInt8:
      return "int8";
  }
  return "";
}

void FreeAligned::operator()(void* memory) const { c10::free_cpu(memory); }

void* AllocateAligned(int64_t bytes) {
  static_assert(c10::gAlignment >= 64);
  return c10::GetCPUAllocator()->raw_allocate(static_cast<size_t>(bytes));
}

int64_t PackedWeights::bytes() const { return outputs * groups * 4; }

std::vector<const Kernels*> AvailableKernels() {
  std::vector<const Kernels*> available;
  __builtin_cpu_init();
  // One instruction set for all that AVX-512 is used for here; who has these has the others.
  if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")) {
    available.push_back(KernelsOf_avx512());
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    available.push_back(KernelsOf_avx2());
  }
  available.push_back(KernelsOf_portable());
  return available;
}

const Kernels& BestKernels() {
  static const Kernels* const best = AvailableKernels().front();
  return *best;
}

}  // namespace tasuki
