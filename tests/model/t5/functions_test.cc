#include "model/t5/functions.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "gtest/gtest.h"

namespace tasuki {
namespace {

using at::Tensor;

TEST(RmsNorm, AgreesWithItsDefinitionAndItsGradients) {
  // Widths around the eight lanes, rows around a block of the weight's gradient.
  for (const int64_t width : {3, 8, 13, 48}) {
    for (const int64_t rows : {1, 64, 201}) {
      const Tensor x = at::randn({rows, width}).mul_(2).set_requires_grad(true);
      const Tensor weight = at::randn({width}).set_requires_grad(true);
      const Tensor gradient = at::randn({rows, width});
      const Tensor exact_x = x.detach().to(at::kDouble).set_requires_grad(true);
      const Tensor exact_weight = weight.detach().to(at::kDouble).set_requires_grad(true);
      const Tensor exact = exact_x * (exact_x.pow(2).mean(-1, true) + 1e-6).rsqrt() * exact_weight;
      exact.backward(gradient.to(at::kDouble));

      const Tensor result = RmsNorm(x, weight, 1e-6);
      result.backward(gradient);
      EXPECT_TRUE(at::allclose(result.to(at::kDouble), exact, 1e-5, 1e-5));
      EXPECT_TRUE(at::allclose(x.grad().to(at::kDouble), exact_x.grad(), 1e-5, 1e-5));
      EXPECT_TRUE(at::allclose(weight.grad().to(at::kDouble), exact_weight.grad(), 1e-5, 1e-4));
      const c10::NoGradGuard no_grad;
      EXPECT_TRUE(at::equal(RmsNorm(x, weight, 1e-6), result));
    }
  }
}

TEST(RmsNorm, TakesRowsThatAreNotContiguous) {
  const Tensor x = at::randn({7, 9}), weight = at::randn({7});
  EXPECT_TRUE(at::equal(RmsNorm(x.t(), weight, 1e-6), RmsNorm(x.t().contiguous(), weight, 1e-6)));
}

}  // namespace
}  // namespace tasuki
