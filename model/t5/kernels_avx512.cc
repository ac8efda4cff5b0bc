#include <cstdint>

#include "model/t5/kernels.h"

#define TASUKI_KERNELS "avx512"
#include "model/t5/kernels_inl.h"

namespace tasuki {
const Kernels* KernelsOf_avx512() { return &kKernels; }
}  // namespace tasuki
