#include "model/training/optimizer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace tasuki {
namespace {

// Norms and relative biases are scales and offsets: decay would pull them to a wrong place.
bool Decays(const std::string& weight) {
  return !absl::StrContains(weight, "layer_norm") &&
         !absl::StrContains(weight, "relative_attention_bias");
}

WeightMap Trained(const v1::Recipe& recipe, WeightMap weights) {
  std::erase_if(weights, [&](const auto& weight) { return IsFrozen(recipe, weight.first); });
  return weights;
}

// Loshchilov and Hutter 2019. One fused call over all weights that share a decay.
class AdamW : public Optimizer {
 public:
  AdamW(const v1::Recipe& recipe, const WeightMap& weights) : Optimizer(recipe, weights) {
    for (const auto& [name, weight] : weights_) {
      state_[absl::StrCat(name, ".exp_avg")] = at::zeros_like(weight);
      state_[absl::StrCat(name, ".exp_avg_sq")] = at::zeros_like(weight);
    }
  }

  void Step(const Update& update) override {
    at::NoGradGuard no_grad;
    Apply(update, true);
    Apply(update, false);
  }

 private:
  void Apply(const Update& update, bool decays) {
    std::vector<at::Tensor> weights, gradients, averages, squares, steps;
    for (const auto& [name, weight] : weights_) {
      if (!weight.grad().defined() || Decays(name) != decays) continue;
      weights.push_back(weight);
      gradients.push_back(weight.grad());
      averages.push_back(state_.at(absl::StrCat(name, ".exp_avg")));
      squares.push_back(state_.at(absl::StrCat(name, ".exp_avg_sq")));
    }
    if (weights.empty()) return;
    const auto scalar = weights.front().options();
    steps.assign(weights.size(), at::full({}, static_cast<double>(update.step), scalar));
    at::_fused_adamw_(weights, gradients, averages, squares, /*max_exp_avg_sqs=*/{}, steps,
                      update.learning_rate, /*beta1=*/0.9, /*beta2=*/0.999,
                      decays ? weight_decay_ : 0, /*eps=*/1e-8, /*amsgrad=*/false,
                      /*maximize=*/false,
                      /*grad_scale=*/at::full({}, 1 / update.gradient_scale, scalar));
  }
};

// Shazeer and Stern 2018. Steps are in proportion to the size of the weight itself, and the second
// moments of a matrix are kept as the means of its rows and columns.
class Adafactor : public Optimizer {
 public:
  Adafactor(const v1::Recipe& recipe, const WeightMap& weights) : Optimizer(recipe, weights) {
    for (const auto& [name, weight] : weights_) {
      if (weight.dim() < 2) {
        state_[absl::StrCat(name, ".exp_avg_sq")] = at::zeros_like(weight);
        continue;
      }
      state_[absl::StrCat(name, ".exp_avg_sq_row")] = at::zeros({weight.size(0)}, weight.options());
      state_[absl::StrCat(name, ".exp_avg_sq_col")] = at::zeros({weight.size(1)}, weight.options());
    }
  }

  void Step(const Update& update) override {
    at::NoGradGuard no_grad;
    const double kept = 1 - std::pow(static_cast<double>(update.step), -0.8);  // beta2 of this step
    for (const auto& [name, weight] : weights_) {
      if (!weight.grad().defined()) continue;
      at::Tensor gradient = weight.grad();
      if (update.gradient_scale != 1) gradient.mul_(update.gradient_scale);
      const at::Tensor rate = Rms(weight).clamp_min_(kLeastSize).mul_(update.learning_rate);
      at::Tensor change = Normalized(name, gradient, kept);
      const at::Tensor clipping = Rms(change).clamp_min_(kClipThreshold).div_(kClipThreshold);
      if (weight_decay_ > 0 && Decays(name)) weight.mul_(1 - rate * weight_decay_);
      weight.addcmul_(change, rate / clipping, /*value=*/-1);
    }
  }

 private:
  static constexpr double kLeastSquare = 1e-30;
  static constexpr double kLeastSize = 1e-3;
  static constexpr double kClipThreshold = 1;

  static at::Tensor Rms(const at::Tensor& values) {
    return values.norm().div_(std::sqrt(static_cast<double>(values.numel())));
  }

  // The gradient divided by the root of its second moment, which is brought up to date.
  at::Tensor Normalized(const std::string& name, const at::Tensor& gradient, double kept) {
    const at::Tensor square = gradient.square().add_(kLeastSquare);
    if (gradient.dim() < 2) {
      at::Tensor& moment = state_.at(absl::StrCat(name, ".exp_avg_sq"));
      return moment.mul_(kept).add_(square, 1 - kept).rsqrt().mul_(gradient);
    }
    at::Tensor& rows = state_.at(absl::StrCat(name, ".exp_avg_sq_row"));
    at::Tensor& columns = state_.at(absl::StrCat(name, ".exp_avg_sq_col"));
    rows.mul_(kept).add_(square.mean(-1), 1 - kept);
    columns.mul_(kept).add_(square.mean(-2), 1 - kept);
    const at::Tensor row_factor = rows.div(rows.mean()).rsqrt_().unsqueeze(-1);
    return gradient.mul(row_factor).mul_(columns.rsqrt());
  }
};

}  // namespace

double LearningRate(const v1::Recipe& recipe, int64_t steps_done, int64_t total_steps) {
  const double done = static_cast<double>(steps_done);
  const double warmup = static_cast<double>(recipe.warmup_steps());
  if (done < warmup) return recipe.learning_rate() * done / warmup;
  const double past = (done - warmup) / std::max(1.0, static_cast<double>(total_steps) - warmup);
  switch (recipe.schedule()) {
    case v1::Recipe::LINEAR:
      return recipe.learning_rate() * (1 - past);
    case v1::Recipe::COSINE:
      return recipe.learning_rate() * 0.5 * (1 + std::cos(std::numbers::pi * past));
    case v1::Recipe::INVERSE_SQRT:
      return recipe.learning_rate() * std::sqrt(std::max(1.0, warmup) / std::max(1.0, done));
    default:
      return recipe.learning_rate();
  }
}

double GradientNorm(const WeightMap& weights) {
  at::NoGradGuard no_grad;
  std::vector<at::Tensor> gradients;
  for (const auto& [name, weight] : weights) {
    if (weight.grad().defined()) gradients.push_back(weight.grad());
  }
  return at::stack(at::_foreach_norm(gradients)).norm().item<double>();
}

bool IsFrozen(const v1::Recipe& recipe, const std::string& weight) {
  return (recipe.freeze_embeddings() && weight == "shared.weight") ||
         (recipe.freeze_encoder() && absl::StartsWith(weight, "encoder."));
}

void ClearGradients(const WeightMap& weights) {
  for (const auto& [name, weight] : weights) {
    if (weight.is_cpu()) {
      weight.mutable_grad() = at::Tensor();
    } else if (weight.grad().defined()) {
      weight.mutable_grad().zero_();
    }
  }
}

Optimizer::Optimizer(const v1::Recipe& recipe, const WeightMap& weights)
    : weights_(Trained(recipe, weights)), weight_decay_(recipe.weight_decay()) {}

std::unique_ptr<Optimizer> Optimizer::Create(const v1::Recipe& recipe, const WeightMap& weights) {
  if (recipe.optimizer() == v1::Recipe::ADAFACTOR) {
    return std::make_unique<Adafactor>(recipe, weights);
  }
  return std::make_unique<AdamW>(recipe, weights);
}

}  // namespace tasuki
