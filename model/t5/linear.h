// Products with weights that train: on a CPU by this project's kernels, elsewhere by LibTorch.
// Private to model/: includes torch.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "model/t5/kernels.h"

namespace tasuki {

// x Wᵀ for each W [outputs, width], side by side in their order: [rows, sum of outputs]. x is
// [rows, width]; fp32. With its gradients, for those of x and the weights that require one. In bf16
// the operands of all three products are rounded to it. Uses at::get_num_threads() threads; the
// result does not depend on how many. On a GPU: LinearByTorch.
at::Tensor Linear(const at::Tensor& x, const std::vector<at::Tensor>& weights, Precision precision);

// The same by LibTorch, for a GPU: in bf16 both operands, the result, and the gradients on their
// way to fp32 weights are rounded to it, as under transformers' autocast; sums are fp32. x may be
// bf16.
at::Tensor LinearByTorch(const at::Tensor& x, const std::vector<at::Tensor>& weights,
                         Precision precision);

// Of what Linear makes there.
inline at::ScalarType TypeOfProducts(at::Device device, Precision precision) {
  return device.is_cpu() || precision == Precision::kFp32 ? at::kFloat : at::kBFloat16;
}

}  // namespace tasuki
