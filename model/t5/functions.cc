#include "model/t5/functions.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/threshold_backward.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/engine.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <optional>
#include <vector>

#include "model/t5/kernels.h"
#include "model/t5/team.h"

namespace tasuki {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kGrain = 1 << 14;  // elements that are worth another thread
constexpr int64_t kBlock = 32;       // rows of which the gradient of a norm's weight is one sum

Tensor Normalise(const Tensor& x, const Tensor& weight, double epsilon) {
  const int64_t width = x.size(1);
  Tensor result = at::empty_like(x);
  const float* in = x.const_data_ptr<float>();
  const float* factors = weight.const_data_ptr<float>();
  float* out = result.mutable_data_ptr<float>();
  RunRanges(at::get_num_threads(), x.size(0), kGrain / width + 1, [&](int64_t begin, int64_t end) {
    BestKernels().norm(in + begin * width, end - begin, width, factors, static_cast<float>(epsilon),
                       {Precision::kFp32, out + begin * width, width});
  });
  return result;
}

struct RmsNormFunction : torch::autograd::Function<RmsNormFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        double epsilon) {
    context->save_for_backward({x, weight});
    context->saved_data["epsilon"] = epsilon;
    return Normalise(x, weight, epsilon);
  }

  // With n = x * factor and h = gradient * weight: dx = factor * (h - n * mean(h * n)), and dweight
  // is the sum over rows of gradient * n.
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1];
    const float epsilon = static_cast<float>(context->saved_data["epsilon"].toDouble());
    const Tensor gradient = gradients[0].contiguous();
    const int64_t count = x.size(0), width = x.size(1), blocks = (count + kBlock - 1) / kBlock;
    Tensor dx = at::empty_like(x);
    const Tensor sums = at::zeros({blocks, width}, x.options());
    const float* w = weight.const_data_ptr<float>();
    const auto dot = BestKernels().dot;
    RunRanges(at::get_num_threads(), blocks, 1, [&](int64_t first, int64_t last) {
      for (int64_t row = first * kBlock; row < std::min(last * kBlock, count); ++row) {
        const float* g = gradient.const_data_ptr<float>() + row * width;
        const float* in = x.const_data_ptr<float>() + row * width;
        float* out = dx.mutable_data_ptr<float>() + row * width;
        float* sum = sums.mutable_data_ptr<float>() + row / kBlock * width;
        const float factor = 1 / std::sqrt(dot(in, in, width) / width + epsilon);
        for (int64_t i = 0; i < width; ++i) {
          out[i] = g[i] * w[i];
          sum[i] += g[i] * in[i] * factor;
        }
        const float share = dot(out, in, width) * factor * factor / width;
        for (int64_t i = 0; i < width; ++i) out[i] = factor * (out[i] - in[i] * share);
      }
    });
    return {dx, context->needs_input_grad(1) ? sums.sum(0) : Tensor(), Tensor()};
  }
};

// `base` may be undefined, and `to` may be x.
void DropInto(const Tensor& x, const Tensor& base, double share, uint64_t key, const Tensor& to) {
  const float* in = x.const_data_ptr<float>();
  const float* add = base.defined() ? base.const_data_ptr<float>() : nullptr;
  float* out = to.mutable_data_ptr<float>();
  const int64_t blocks = (x.numel() + kDropoutBlock - 1) / kDropoutBlock;
  RunRanges(at::get_num_threads(), blocks, kGrain / kDropoutBlock,
            [&](int64_t first, int64_t last) {
              const int64_t begin = first * kDropoutBlock,
                            end = std::min(last * kDropoutBlock, x.numel());
              BestKernels().dropout(in + begin, add == nullptr ? nullptr : add + begin, out + begin,
                                    end - begin, static_cast<float>(share), key, begin);
            });
}

struct DropFunction : torch::autograd::Function<DropFunction> {
  static Tensor forward(AutogradContext* context, const std::optional<Tensor>& base,
                        const Tensor& x, double share) {
    const uint64_t key = NextRandom();
    context->saved_data["adds"] = base.has_value();
    context->saved_data["share"] = share;
    context->saved_data["key"] = static_cast<int64_t>(key);
    Tensor result = at::empty_like(x);
    DropInto(x, base.value_or(Tensor()), share, key, result);
    return result;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const Tensor gradient = gradients[0].contiguous();
    Tensor dx = at::empty_like(gradient);
    DropInto(gradient, {}, context->saved_data["share"].toDouble(),
             static_cast<uint64_t>(context->saved_data["key"].toInt()), dx);
    const bool adds = context->saved_data["adds"].toBool();
    return {adds ? gradients[0] : Tensor(), dx, Tensor()};
  }
};

struct DroppedReluFunction : torch::autograd::Function<DroppedReluFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, double share) {
    Tensor result = at::relu(x);
    DropInto(result, {}, share, NextRandom(), result);
    context->save_for_backward({result});
    context->saved_data["share"] = share;
    return result;
  }
  // What was dropped is 0, as what was negative.
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const Tensor result = context->get_saved_variables()[0];
    const double kept = 1 - context->saved_data["share"].toDouble();
    return {at::threshold_backward(gradients[0], result, 0).div_(kept), Tensor()};
  }
};

struct EmbedFunction : torch::autograd::Function<EmbedFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& weight, const Tensor& ids) {
    context->saved_data["weight"] = weight;
    context->saved_data["ids"] = ids;
    return at::embedding(weight.detach(), ids);
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    torch::autograd::Engine::get_default_engine().queue_callback(
        [weight = context->saved_data["weight"].toTensor(),
         ids = context->saved_data["ids"].toTensor(), gradient = gradients[0].contiguous()] {
          Tensor& sum = weight.mutable_grad();
          if (!sum.defined()) sum = at::zeros(weight.sizes(), gradient.options());
          const int64_t width = weight.size(1);
          const int64_t* id = ids.const_data_ptr<int64_t>();
          const float* from = gradient.const_data_ptr<float>();
          for (int64_t i = 0; i < ids.size(0); ++i, from += width) {
            float* to = sum.mutable_data_ptr<float>() + id[i] * width;
            for (int64_t k = 0; k < width; ++k) to[k] += from[k];
          }
        });
    return {Tensor(), Tensor()};
  }
};

}  // namespace

Tensor RmsNorm(const Tensor& x, const Tensor& weight, double epsilon) {
  if (!x.is_cpu()) return at::rms_norm(x, {x.size(-1)}, weight, epsilon);
  const Tensor rows = x.contiguous();
  return at::GradMode::is_enabled() ? RmsNormFunction::apply(rows, weight, epsilon)
                                    : Normalise(rows, weight, epsilon);
}

Tensor Drop(const Tensor& x, double share) {
  if (share == 0) return x;
  if (!x.is_cpu()) return at::dropout(x, share, /*train=*/true);
  return DropFunction::apply(std::nullopt, x.contiguous(), share);
}

Tensor AddDropped(const Tensor& base, const Tensor& x, double share) {
  if (share == 0) return base + x;
  if (!x.is_cpu()) return base + at::dropout(x, share, /*train=*/true);
  return DropFunction::apply(std::optional(base.contiguous()), x.contiguous(), share);
}

Tensor DroppedRelu(const Tensor& x, double share) {
  if (share == 0) return at::relu(x);
  if (!x.is_cpu()) return at::dropout(at::relu(x), share, /*train=*/true);
  return DroppedReluFunction::apply(x.contiguous(), share);
}

Tensor DroppedGatedGelu(const Tensor& gate, const Tensor& x, double share) {
  return Drop(at::gelu(gate, "tanh") * x, share);
}

Tensor Embed(const Tensor& weight, const Tensor& ids) {
  return weight.is_cpu() && weight.requires_grad() && at::GradMode::is_enabled()
             ? EmbedFunction::apply(weight, ids)
             : at::embedding(weight, ids);
}

uint64_t NextRandom() {
  const at::Generator& generator = at::detail::getDefaultCPUGenerator();
  auto* bits = at::check_generator<at::CPUGeneratorImpl>(generator);
  const std::lock_guard lock(bits->mutex_);
  return bits->random64();
}

}  // namespace tasuki
