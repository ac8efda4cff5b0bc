#include "model/t5/linear.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <torch/csrc/autograd/custom_function.h>

#include "model/t5/kernels.h"
#include "model/t5/team.h"

namespace tasuki {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Fewer multiplications than these are done before another thread has woken up.
constexpr int64_t kWorthATeam = 1 << 20;

// a b into `output`, by all threads.
void Multiply(Precision precision, const Matrix& a, const Matrix& b, int64_t rows, int64_t inner,
              int64_t columns, const Output& output) {
  const Kernels& kernels = BestKernels();
  const auto work = [&](const Member& member) {
    const auto [first, last] = member.Share((columns + kernels.panel - 1) / kernels.panel);
    kernels.product(precision, a, b, rows, inner, columns, first * kernels.panel,
                    last * kernels.panel, output, ProductScratch());
  };
  const int threads = at::get_num_threads();
  if (threads == 1 || rows * inner * columns < kWorthATeam) {
    work(Member::Alone());
  } else {
    RunTeam(threads, work);
  }
}

const float* Floats(const Tensor& tensor) { return tensor.const_data_ptr<float>(); }

Tensor Forward(const Tensor& x, const std::vector<Tensor>& weights, Precision precision) {
  const int64_t rows = x.size(0), width = x.size(1);
  int64_t outputs = 0;
  for (const Tensor& weight : weights) outputs += weight.size(0);
  Tensor y = at::empty({rows, outputs}, x.options().requires_grad(false));
  float* out = y.mutable_data_ptr<float>();
  for (const Tensor& weight : weights) {
    const Matrix turned = {Floats(weight), 1, width};
    Multiply(precision, {Floats(x), width, 1}, turned, rows, width, weight.size(0), {out, outputs});
    out += weight.size(0);
  }
  return y;
}

struct LinearFunction : torch::autograd::Function<LinearFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, at::TensorList weights,
                        Precision precision) {
    variable_list saved = {x};
    saved.insert(saved.end(), weights.begin(), weights.end());
    context->save_for_backward(saved);
    context->saved_data["precision"] = static_cast<int64_t>(precision);
    return Forward(x, weights.vec(), precision);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor& x = saved[0];
    const Tensor gradient = gradients[0].contiguous();
    const int64_t rows = x.size(0), width = x.size(1), outputs = gradient.size(1);
    const auto precision = static_cast<Precision>(context->saved_data["precision"].toInt());
    variable_list result(saved.size() + 1);
    if (context->needs_input_grad(0)) result[0] = at::empty({rows, width}, gradient.options());
    const float* of_output = Floats(gradient);
    for (size_t i = 1; i < saved.size(); ++i) {
      const Tensor& weight = saved[i];
      const int64_t count = weight.size(0);
      if (result[0].defined()) {
        Multiply(precision, {of_output, outputs, 1}, {Floats(weight), width, 1}, rows, count, width,
                 {result[0].mutable_data_ptr<float>(), width,
                  i == 1 ? OutputMode::kSet : OutputMode::kAdd});
      }
      if (context->needs_input_grad(i)) {
        result[i] = at::empty({count, width}, gradient.options());
        Multiply(precision, {of_output, 1, outputs}, {Floats(x), width, 1}, count, rows, width,
                 {result[i].mutable_data_ptr<float>(), width});
      }
      of_output += count;
    }
    return result;
  }
};

}  // namespace

Tensor Linear(const Tensor& x, const std::vector<Tensor>& weights, Precision precision) {
  if (!x.is_cpu()) return LinearByTorch(x, weights, precision);
  const Tensor rows = x.contiguous();
  return at::GradMode::is_enabled()
             ? LinearFunction::apply(rows, at::TensorList(weights), precision)
             : Forward(rows, weights, precision);
}

Tensor LinearByTorch(const Tensor& x, const std::vector<Tensor>& weights, Precision precision) {
  const Tensor weight = weights.size() == 1 ? weights[0] : at::cat(weights);
  const at::ScalarType type = precision == Precision::kFp32 ? at::kFloat : at::kBFloat16;
  return at::linear(x.to(type), weight.to(type));
}

}  // namespace tasuki
