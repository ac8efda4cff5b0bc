// Functions that ATen composes of many passes on a CPU, each here as one, with its backward.
// Private to model/: includes torch. fp32; elsewhere what ATen composes, of bf16 as well. On a CPU
// results do not depend on how many threads there are.
#pragma once

#include <ATen/core/Tensor.h>

namespace tasuki {

// x / sqrt(mean of squares + epsilon) * weight over the last dimension; x is [rows, width].
at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double epsilon);

// x with each element 0 with probability `share` and else divided by 1 - share; x itself if `share`
// is 0. What becomes 0 follows from the next number of LibTorch's generator.
at::Tensor Drop(const at::Tensor& x, double share);
// base + Drop(x, share).
at::Tensor AddDropped(const at::Tensor& base, const at::Tensor& x, double share);
// Drop(relu(x), share) and Drop(gelu(gate) * x, share), gelu by its tanh form.
at::Tensor DroppedRelu(const at::Tensor& x, double share);
at::Tensor DroppedGatedGelu(const at::Tensor& gate, const at::Tensor& x, double share);

// Rows `ids` [tokens] of `weight` [rows, width]. On a CPU their gradients are added to
// weight.grad() in place at the end of the backward pass, instead of a matrix of zeros for each
// call. REQUIRES: a weight that requires a gradient is a leaf.
at::Tensor Embed(const at::Tensor& weight, const at::Tensor& ids);

// The next number of LibTorch's generator for the CPU.
uint64_t NextRandom();

}  // namespace tasuki
