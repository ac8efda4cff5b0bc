// Which kernels, and how many threads, this machine is fastest with: measured, in a tenth of a
// second or two.
#pragma once

#include <cstdint>
#include <vector>

#include "model/t5/kernels.h"

namespace tasuki {

// Those of `candidates` that compute a product of a t5-base's width (one thread, 64 rows) fastest.
// REQUIRES: there are some, and all can do the precision. A single one is not measured.
const Kernels& FastestKernels(Precision precision, const std::vector<const Kernels*>& candidates);

// How many threads compute such a product of `rows` rows fastest: `most`, unless another power of
// two below it is faster by a fifth at least, so that a neighbour's noise does not decide.
int FastestThreads(const Kernels& kernels, Precision precision, int64_t rows, int most);

}  // namespace tasuki
