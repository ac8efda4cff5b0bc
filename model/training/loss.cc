#include "model/training/loss.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "model/training/padded_loss.h"

namespace tasuki {
namespace {

int64_t TokensOf(const std::vector<std::vector<int32_t>>& sequences) {
  int64_t tokens = 0;
  for (const std::vector<int32_t>& sequence : sequences) {
    tokens += static_cast<int64_t>(sequence.size());
  }
  return tokens;
}

// Factor of each target token in L.
at::Tensor TokenFactors(const Batch& part, int64_t target_tokens, at::Device device) {
  std::vector<float> factors;
  for (int64_t i = 0; i < part.size(); ++i) {
    factors.insert(factors.end(), part.targets[i].size(),
                   part.weights[i] / static_cast<float>(target_tokens));
  }
  return at::tensor(factors).to(device);
}

}  // namespace

int64_t Batch::input_tokens() const { return TokensOf(inputs); }
int64_t Batch::target_tokens() const { return TokensOf(targets); }

at::Tensor TargetLogits(const T5& model, const std::vector<std::vector<int32_t>>& inputs,
                        const std::vector<std::vector<int32_t>>& targets, const Dropout& dropout) {
  const at::Device device = model.weights().begin()->second.device();
  if (!device.is_cpu()) return PaddedTargetLogits(model, inputs, targets, dropout);
  std::vector<std::vector<int32_t>> shifted;
  for (const std::vector<int32_t>& target : targets) {
    shifted.push_back(ShiftRight(target, model.config()));
  }
  const PackedTokens input = PackedTokens::Of(inputs, device);
  const PackedTokens decoder_input = PackedTokens::Of(shifted, device);
  const at::Tensor encoded = model.Encode(input, dropout);
  return model.Logits(model.Decode(decoder_input, encoded, input, dropout));
}

at::Tensor TokenLosses(const at::Tensor& logits, const std::vector<std::vector<int32_t>>& targets,
                       double label_smoothing) {
  const at::Tensor ids = PackedTokens::Of(targets, logits.device()).ids;
  return at::cross_entropy_loss(logits, ids, /*weight=*/{}, at::Reduction::None,
                                /*ignore_index=*/-100, label_smoothing);
}

void PadTargets(absl::Span<std::vector<int32_t>> targets, int32_t pad) {
  size_t longest = 0;
  for (const std::vector<int32_t>& target : targets) longest = std::max(longest, target.size());
  for (std::vector<int32_t>& target : targets) target.resize(longest, pad);
}

double Backward(const T5& model, const Batch& batch, const LossOptions& options) {
  if (!model.weights().begin()->second.is_cpu()) return PaddedBackward(model, batch, options);
  const int64_t target_tokens = batch.target_tokens();
  double sum = 0;
  for (const Batch& part : PackedParts(batch, options.tokens_at_once)) {
    const at::Tensor logits = TargetLogits(model, part.inputs, part.targets, options.dropout);
    const at::Tensor factors = TokenFactors(part, target_tokens, logits.device());
    const at::Tensor loss = TokenLosses(logits, part.targets, options.label_smoothing).dot(factors);
    loss.backward();
    sum += loss.item<double>();
  }
  return sum;
}

std::vector<Batch> PackedParts(const Batch& batch, int64_t most_tokens) {
  return Parts(batch, [&](const Batch& part, int64_t length) {
    return part.input_tokens() + length > most_tokens;
  });
}

std::vector<Batch> Parts(const Batch& batch,
                         const std::function<bool(const Batch& part, int64_t length)>& is_full) {
  std::vector<int64_t> order(batch.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return batch.inputs[a].size() > batch.inputs[b].size();
  });
  std::vector<Batch> parts;
  for (const int64_t example : order) {
    const int64_t length = static_cast<int64_t>(batch.inputs[example].size());
    if (parts.empty() || is_full(parts.back(), length)) parts.emplace_back();
    parts.back().inputs.push_back(batch.inputs[example]);
    parts.back().targets.push_back(batch.targets[example]);
    parts.back().weights.push_back(batch.weights[example]);
  }
  return parts;
}

}  // namespace tasuki
