// The loss of an effective batch and its gradient. Includes torch.
//
//   L = Σᵢ weightᵢ · Σₜ ℓᵢₜ / Σᵢ nᵢ
//
// with ℓ the cross-entropy of a target token and n the target tokens of an example, </s> included.
// Weights do not enter the denominator.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/t5/t5.h"

namespace tasuki {

// Examples of one optimizer step, in any order.
struct Batch {
  std::vector<std::vector<int32_t>> inputs;   // with </s>
  std::vector<std::vector<int32_t>> targets;  // with </s>
  std::vector<float> weights;                 // of the examples' tasks

  int64_t size() const { return static_cast<int64_t>(inputs.size()); }
  int64_t input_tokens() const;
  int64_t target_tokens() const;
};

// Logits at every target position: [target tokens, vocab_size].
at::Tensor TargetLogits(const T5& model, const std::vector<std::vector<int32_t>>& inputs,
                        const std::vector<std::vector<int32_t>>& targets, double dropout);

// Cross-entropy of each target token: [target tokens].
at::Tensor TokenLosses(const at::Tensor& logits, const std::vector<std::vector<int32_t>>& targets);

// Adds the gradient of L to the model's weights and answers L. Goes through the batch in parts of
// at most kTokensAtOnce input tokens, longest examples first, so that memory does not grow with it.
inline constexpr int64_t kTokensAtOnce = 2048;
double Backward(const T5& model, const Batch& batch, double dropout);

}  // namespace tasuki
