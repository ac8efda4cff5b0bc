#include "model/t5/kernels.h"

#include <cstdlib>
#include <new>

namespace tasuki {

// Each in a file of its own, compiled for its instruction set.
const Kernels* KernelsOf_avx512();
const Kernels* KernelsOf_avx2();
const Kernels* KernelsOf_portable();

void FreeAligned::operator()(void* memory) const { std::free(memory); }

void* AllocateAligned(int64_t bytes) {
  constexpr int64_t kLine = 64;
  void* memory = std::aligned_alloc(kLine, (bytes + kLine) / kLine * kLine);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
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
