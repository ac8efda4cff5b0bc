// The loss of an effective batch and its gradient. Includes torch.
//
//   L = Σᵢ weightᵢ · Σₜ ℓᵢₜ / Σᵢ nᵢ
//
// with ℓ the cross-entropy of a target token and n the target tokens of an example, </s> included.
// Weights do not enter the denominator. With label smoothing ε, ℓ is (1 − ε) · that + ε · the mean
// of −log p over the vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/types/span.h"
#include "model/t5/t5.h"

namespace tasuki {

class GraphCache;

// Examples of one optimizer step, in any order.
struct Batch {
  std::vector<std::vector<int32_t>> inputs;   // with </s>
  std::vector<std::vector<int32_t>> targets;  // with </s>
  std::vector<float> weights;                 // of the examples

  int64_t size() const { return static_cast<int64_t>(inputs.size()); }
  int64_t input_tokens() const;
  int64_t target_tokens() const;
};

// Logits at every target position: [target tokens, vocab_size].
at::Tensor TargetLogits(const T5& model, const std::vector<std::vector<int32_t>>& inputs,
                        const std::vector<std::vector<int32_t>>& targets, const Dropout& dropout);

// Cross-entropy of each target token: [target tokens].
at::Tensor TokenLosses(const at::Tensor& logits, const std::vector<std::vector<int32_t>>& targets,
                       double label_smoothing = 0);

// Fills the targets with `pad` up to the longest, so that padding counts as the study counted it.
void PadTargets(absl::Span<std::vector<int32_t>> targets, int32_t pad);

// Input tokens that go through the model at once, unless a single example has more.
inline constexpr int64_t kTokensAtOnce = 2048;

struct LossOptions {
  Dropout dropout;
  double label_smoothing = 0;
  int64_t tokens_at_once = kTokensAtOnce;
  GraphCache* graphs = nullptr;  // of this model and these options; used on a GPU, if there is one
};

// Adds the gradient of L to the weights that are trained and answers L. Goes through the batch in
// parts of at most `tokens_at_once` input tokens, longest examples first, so that memory does not
// grow with it. Without dropout the parts change L by rounding only.
double Backward(const T5& model, const Batch& batch, const LossOptions& options);

// The parts of at most `most_tokens` input tokens, or one example, that a batch goes through in on
// a CPU.
std::vector<Batch> PackedParts(const Batch& batch, int64_t most_tokens);

// The batch in parts, longest examples first: one ends where `is_full` says that an example with
// that many input tokens has no place in it any more.
std::vector<Batch> Parts(const Batch& batch,
                         const std::function<bool(const Batch& part, int64_t length)>& is_full);

}  // namespace tasuki
