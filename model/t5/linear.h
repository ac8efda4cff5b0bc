// Products with weights that train, on a CPU by this project's kernels. Private to model/: includes
// torch.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "model/t5/kernels.h"

namespace tasuki {

// x Wᵀ for each W [outputs, width], side by side in their order: [rows, sum of outputs]. x is
// [rows, width]; fp32. With its gradients, for those of x and the weights that require one. In bf16
// the operands of all three products are rounded to it. Uses at::get_num_threads() threads; the
// result does not depend on how many.
at::Tensor Linear(const at::Tensor& x, const std::vector<at::Tensor>& weights, Precision precision);

}  // namespace tasuki
