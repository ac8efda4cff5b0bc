#include <cstdint>

#include "model/t5/kernels.h"

#define TASUKI_KERNELS "portable"
#include "model/t5/kernels_inl.h"

namespace tasuki {
const Kernels* KernelsOf_portable() { return &kKernels; }
}  // namespace tasuki
