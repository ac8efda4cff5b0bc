#include "model/t5/kernels.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

#include <atomic>
#include <cstdlib>
#include <new>

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

std::optional<Precision> PrecisionNamed(std::string_view name) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16, Precision::kInt8}) {
    if (name == PrecisionName(precision)) return precision;
  }
  return std::nullopt;
}

void FreeAligned::operator()(void* memory) const { c10::free_cpu(memory); }

void* AllocateAligned(int64_t bytes) {
  static_assert(c10::gAlignment >= 64);
  return c10::GetCPUAllocator()->raw_allocate(static_cast<size_t>(bytes));
}

PackedWeights MakePacked(const Kernels& kernels, Precision precision, int64_t outputs,
                         int64_t width) {
  PackedWeights packed;
  packed.precision = precision;
  packed.outputs = outputs;
  packed.width = width;
  packed.groups = (width + GroupSize(precision) - 1) / GroupSize(precision);
  const int64_t columns = Panels(kernels, outputs) * kernels.panel;
  packed.data = MakeAligned<int32_t>(columns * packed.groups);
  if (precision == Precision::kInt8) {
    packed.scales = MakeAligned<float>(columns);
    packed.offsets = MakeAligned<int32_t>(columns);
  }
  return packed;
}

int64_t PackedWeights::bytes() const { return outputs * groups * 4; }

float* ProductScratch() {
  struct Scratch {
    Scratch()
        : floats(static_cast<float*>(std::aligned_alloc(64, kProductScratch * sizeof(float)))) {
      if (floats == nullptr) throw std::bad_alloc();
    }
    ~Scratch() { std::free(floats); }
    float* const floats;
  };
  static thread_local const Scratch scratch;
  return scratch.floats;
}

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

const Kernels* KernelsNamed(std::string_view name) {
  for (const Kernels* kernels : AvailableKernels()) {
    if (kernels->name == name) return kernels;
  }
  return nullptr;
}

namespace {

std::atomic<const Kernels*>& InUse() {
  static std::atomic<const Kernels*> in_use = AvailableKernels().front();
  return in_use;
}

}  // namespace

const Kernels& BestKernels() { return *InUse().load(std::memory_order_relaxed); }

void UseKernels(const Kernels& kernels) { InUse().store(&kernels); }

}  // namespace tasuki
