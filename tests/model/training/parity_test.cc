// What T5, its loss, gradients and AdamW compute, against transformers and torch: golden/ holds
// what tests/oracles/parity.py wrote. TASUKI_PARITY_DIR names another such directory (base size).
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <iostream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/t5/t5.h"
#include "model/t5/weights.h"
#include "model/training/loss.h"
#include "model/training/optimizer.h"
#include "tests/model/t5/golden.h"

namespace tasuki {
namespace {

double Largest(const at::Tensor& tensor) { return tensor.abs().max().item<double>(); }

class ParityTest : public testing::TestWithParam<std::string> {
 protected:
  const std::string directory_ = GoldenDirectory() + "/" + GetParam();
  const T5Config config_ = *T5Config::Read(directory_ + "/config.json");
  const Golden golden_{directory_ + "/golden.safetensors"};
  const T5 model_ = [&] {
    Adapter adapter{.weights = golden_.Map("adapter."), .scale = 0};
    if (!adapter.weights.empty()) adapter.scale = golden_.Number("adapter_scale");
    return T5(config_, *ReadWeights(directory_, config_), adapter);
  }();
  const Batch batch_ = [&] {
    Batch batch{golden_.Sequences("input"), golden_.Sequences("target"), {}};
    batch.weights.assign(batch.inputs.size(), 1);
    return batch;
  }();
};

TEST_P(ParityTest, LogitsAndLoss) {
  at::NoGradGuard no_grad;
  const at::Tensor logits = TargetLogits(model_, batch_.inputs, batch_.targets, /*dropout=*/{});
  const double logits_off = Largest(logits - golden_.Floats("logits"));
  const double loss_off =
      std::abs(TokenLosses(logits, batch_.targets).mean().item<double>() - golden_.Number("loss"));
  std::cout << GetParam() << ": logits differ by " << logits_off << ", loss by " << loss_off
            << "\n";
  EXPECT_LE(logits_off, 1e-4);
  EXPECT_LE(loss_off, 1e-5);
}

TEST_P(ParityTest, Gradients) {
  EXPECT_NEAR(Backward(model_, batch_, {}), golden_.Number("loss"), 1e-5);
  double worst = 0;
  for (const auto& [name, weight] : model_.trained()) {
    const at::Tensor expected = golden_.Floats("grad." + name);
    const double off = Largest(weight.grad() - expected) / Largest(expected);
    EXPECT_LE(off, 1e-4) << name;
    worst = std::max(worst, off);
  }
  std::cout << GetParam() << ": gradients differ by " << worst << " of their largest\n";
}

TEST_P(ParityTest, TenStepsOfAdamW) {
  WeightMap before;
  for (const auto& [name, weight] : model_.trained()) before[name] = weight.detach().clone();
  v1::Recipe recipe;
  recipe.set_optimizer(v1::Recipe::ADAMW);
  const auto optimizer = Optimizer::Create(recipe, model_.trained());
  const at::Tensor losses = golden_.Floats("adamw.losses");
  double worst_loss = 0;
  for (int64_t step = 0; step < losses.numel(); ++step) {
    ClearGradients(model_.trained());
    const double off = std::abs(Backward(model_, batch_, {}) - losses[step].item<double>());
    EXPECT_LE(off, 1e-4) << "step " << step;
    worst_loss = std::max(worst_loss, off);
    optimizer->Step({.step = step + 1,
                     .learning_rate = golden_.Number("adamw.learning_rate"),
                     .gradient_scale = golden_.Number("adamw.gradient_scale")});
  }
  double worst = 0;
  for (const auto& [name, weight] : model_.trained()) {
    const at::Tensor expected = golden_.Floats("adamw." + name);
    const double off =
        ((weight.detach() - expected).norm() / (expected - before[name]).norm()).item<double>();
    EXPECT_LE(off, 2e-3) << name;
    worst = std::max(worst, off);
  }
  std::cout << GetParam() << ": losses of ten steps differ by " << worst_loss << ", weights by "
            << worst << " of what they moved\n";
}

INSTANTIATE_TEST_SUITE_P(Transformers, ParityTest, testing::ValuesIn(GoldenVariants()),
                         [](const auto& variant) { return TestName(variant.param); });

}  // namespace
}  // namespace tasuki
