#include "model/t5/functions.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

namespace tasuki {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor Gather(const Tensor& source, const Tensor& from) {
  if (!source.is_cpu()) {
    return source.index_select(0, from.clamp_min(0)).masked_fill_((from < 0).unsqueeze(1), 0);
  }
  const Tensor rows = source.contiguous();
  const int64_t count = from.size(0), width = rows.size(1);
  Tensor result = at::empty({count, width}, rows.options());
  const float* in = rows.const_data_ptr<float>();
  const int64_t* index = from.const_data_ptr<int64_t>();
  float* out = result.mutable_data_ptr<float>();
  for (int64_t i = 0; i < count; ++i, out += width) {
    if (index[i] < 0) {
      std::memset(out, 0, width * sizeof(float));
    } else {
      std::memcpy(out, in + index[i] * width, width * sizeof(float));
    }
  }
  return result;
}

struct GatherRowsFunction : torch::autograd::Function<GatherRowsFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& source, const Tensor& from,
                        const Tensor& back) {
    context->saved_data["back"] = back;
    return Gather(source, from);
  }
  static variable_list backward(AutogradContext* context, variable_list gradient) {
    return {Gather(gradient[0], context->saved_data["back"].toTensor()), Tensor(), Tensor()};
  }
};

// Eight sums side by side, so that the compiler may use vector registers.
float Dot(const float* a, const float* b, int64_t size) {
  float sums[8] = {};
  int64_t i = 0;
  for (; i + 8 <= size; i += 8) {
    for (int k = 0; k < 8; ++k) sums[k] += a[i + k] * b[i + k];
  }
  for (; i < size; ++i) sums[0] += a[i] * b[i];
  return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

// The norm of x; the factor of each row goes to `factors` [rows] if that is not null.
Tensor Normalise(const Tensor& x, const Tensor& weight, double epsilon, float* factors) {
  const int64_t count = x.size(0), width = x.size(1);
  Tensor result = at::empty_like(x);
  const float* in = x.const_data_ptr<float>();
  const float* w = weight.const_data_ptr<float>();
  float* out = result.mutable_data_ptr<float>();
  for (int64_t row = 0; row < count; ++row, in += width, out += width) {
    const float factor = 1.0f / std::sqrt(Dot(in, in, width) / width + static_cast<float>(epsilon));
    for (int64_t i = 0; i < width; ++i) out[i] = in[i] * factor * w[i];
    if (factors != nullptr) factors[row] = factor;
  }
  return result;
}

struct RmsNormFunction : torch::autograd::Function<RmsNormFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        double epsilon) {
    const Tensor factors = at::empty({x.size(0)}, x.options());
    context->save_for_backward({x, weight, factors});
    return Normalise(x, weight, epsilon, factors.mutable_data_ptr<float>());
  }

  // With n = x * factor and h = gradient * weight: dx = factor * (h - n * mean(h * n)), and dweight
  // is the sum over rows of gradient * n.
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &factors = saved[2];
    const Tensor gradient = gradients[0].contiguous();
    const int64_t count = x.size(0), width = x.size(1);
    Tensor dx = at::empty_like(x);
    Tensor dweight = at::zeros_like(weight);
    const float* g = gradient.const_data_ptr<float>();
    const float* in = x.const_data_ptr<float>();
    const float* w = weight.const_data_ptr<float>();
    float* out = dx.mutable_data_ptr<float>();
    float* dw = dweight.mutable_data_ptr<float>();
    std::vector<float> block(width);  // of dweight: sums of sums lose less
    for (int64_t row = 0; row < count; ++row, g += width, in += width, out += width) {
      const float factor = factors.const_data_ptr<float>()[row];
      for (int64_t i = 0; i < width; ++i) {
        out[i] = g[i] * w[i];
        block[i] += g[i] * in[i] * factor;
      }
      const float share = Dot(out, in, width) * factor * factor / width;
      for (int64_t i = 0; i < width; ++i) out[i] = factor * (out[i] - in[i] * share);
      if (row % 64 == 63 || row == count - 1) {
        for (int64_t i = 0; i < width; ++i) dw[i] += std::exchange(block[i], 0.0f);
      }
    }
    return {dx, dweight, Tensor()};
  }
};

}  // namespace

Tensor GatherRows(const Tensor& source, const Tensor& from, const Tensor& back) {
  return at::GradMode::is_enabled() ? GatherRowsFunction::apply(source, from, back)
                                    : Gather(source, from);
}

Tensor RmsNorm(const Tensor& x, const Tensor& weight, double epsilon) {
  if (!x.is_cpu()) return at::rms_norm(x, {x.size(-1)}, weight, epsilon);
  const Tensor rows = x.contiguous();
  return at::GradMode::is_enabled() ? RmsNormFunction::apply(rows, weight, epsilon)
                                    : Normalise(rows, weight, epsilon, nullptr);
}

}  // namespace tasuki
