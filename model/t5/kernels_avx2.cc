#include <cstdint>

#include "model/t5/kernels.h"

#define TASUKI_KERNELS "avx2"
#include "model/t5/kernels_inl.h"

namespace tasuki {
const Kernels* KernelsOf_avx2() { return &kKernels; }
}  // namespace tasuki
