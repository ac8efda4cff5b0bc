// Products with weights that train, on a CPU by this project's kernels. Private to model/: includes
// torch.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace tasuki {

// x Wᵀ for each W [outputs, width], side by side in their order: [rows, sum of outputs]. x is
// [rows, width]; fp32. With its gradients, for those of x and the weights that require one. Uses
// at::get_num_threads() threads; the result does not depend on how many.
at::Tensor Linear(const at::Tensor& x, const std::vector<at::Tensor>& weights);

}  // namespace tasuki
