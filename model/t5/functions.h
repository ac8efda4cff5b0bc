// Two functions that ATen composes of many passes on a CPU, each here as one, with its backward.
// Private to model/: includes torch. fp32.
#pragma once

#include <ATen/core/Tensor.h>

namespace tasuki {

// Row i of the result is row from[i] of `source` [rows, width], or zeros where from[i] is -1. No
// row is taken twice; back[j] is the place that row j went to, or -1. So the gradient is a gather
// as well: the same sums in the same order at every run.
at::Tensor GatherRows(const at::Tensor& source, const at::Tensor& from, const at::Tensor& back);

// x / sqrt(mean of squares + epsilon) * weight over the last dimension; x is [rows, width].
at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double epsilon);

}  // namespace tasuki
