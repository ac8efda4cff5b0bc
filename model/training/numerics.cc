#include "model/training/numerics.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

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

}  // namespace tasuki
