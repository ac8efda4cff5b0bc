// The loss of a batch on a GPU: that of loss.h, over examples that are padded. Includes torch.
//
// A part of a batch is two rectangles, inputs and targets, whose sides are rounded up to few sizes;
// what fills them up, examples of no weight included, adds nothing to loss and gradient. A part of
// a size that came before is one CUDA graph of forward and backward pass (model/t5/graphs.h).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/t5/t5.h"
#include "model/training/loss.h"

namespace tasuki {

// Input tokens, padding included, that go through the model at once on a GPU, unless a single
// example has more: 5 GB of activations at t5-base's size in bf16, by arithmetic.
inline constexpr int64_t kTokensAtOnceOnGpu = 16384;

// TargetLogits and Backward of loss.h, which call these where the model is not on a CPU; they
// compute on any device. `inputs` and `targets` go through the model as one part.
at::Tensor PaddedTargetLogits(const T5& model, const std::vector<std::vector<int32_t>>& inputs,
                              const std::vector<std::vector<int32_t>>& targets,
                              const Dropout& dropout);
// Gradients gather in tensors that stay where they are; ClearGradients leaves them there.
double PaddedBackward(const T5& model, const Batch& batch, const LossOptions& options);

// The rectangles of a part: their sides are what is padded to.
struct PaddedSizes {
  int64_t sequences, input, target;

  static PaddedSizes Of(const std::vector<std::vector<int32_t>>& inputs,
                        const std::vector<std::vector<int32_t>>& targets);
};

// The parts of at most `most_tokens` padded input tokens that a batch goes through in: examples of
// like length, where there are enough of them for a part to be worth it.
std::vector<Batch> PaddedParts(const Batch& batch, int64_t most_tokens);

}  // namespace tasuki
