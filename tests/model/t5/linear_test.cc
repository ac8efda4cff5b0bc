#include "model/t5/linear.h"

#include <ATen/ATen.h>

#include "gtest/gtest.h"

namespace tasuki {
namespace {

using at::Tensor;

// That of a GPU against that of a CPU, both on a CPU: results, and gradients in fp32.
TEST(LinearByTorch, MultipliesAsOurKernelsDo) {
  for (const auto& [precision, tolerance] :
       {std::pair(Precision::kFp32, 1e-5), std::pair(Precision::kBf16, 2e-2)}) {
    at::manual_seed(1);
    const Tensor x = at::randn({7, 24}).requires_grad_();
    const std::vector<Tensor> weights = {at::randn({16, 24}).requires_grad_(),
                                         at::randn({16, 24}).requires_grad_()};
    const Tensor direction = at::randn({7, 32});
    const auto gradients_of = [&](const Tensor& result) {
      (result.to(at::kFloat) * direction).sum().backward();
      std::vector<Tensor> gradients;
      for (const Tensor& tensor : {x, weights[0], weights[1]}) {
        EXPECT_EQ(tensor.grad().scalar_type(), at::kFloat);
        gradients.push_back(tensor.grad());
        tensor.mutable_grad() = Tensor();
      }
      return gradients;
    };
    const Tensor expected = Linear(x, weights, Precision::kFp32);
    const std::vector<Tensor> expected_gradients = gradients_of(expected);
    const Tensor result = LinearByTorch(x, weights, precision);
    const std::vector<Tensor> gradients = gradients_of(result);
    EXPECT_EQ(result.scalar_type(), precision == Precision::kBf16 ? at::kBFloat16 : at::kFloat);
    const auto check = [&, tolerance = tolerance](const Tensor& a, const Tensor& b) {
      EXPECT_LE((a - b).abs().max().item<double>(), tolerance * b.abs().max().item<double>());
    };
    check(result, expected);
    for (size_t i = 0; i < gradients.size(); ++i) check(gradients[i], expected_gradients[i]);
  }
}

TEST(TypeOfProducts, IsNarrowOnAGpuInBf16Only) {
  EXPECT_EQ(TypeOfProducts(at::kCPU, Precision::kBf16), at::kFloat);
  EXPECT_EQ(TypeOfProducts(at::Device(at::kCUDA, 0), Precision::kFp32), at::kFloat);
  EXPECT_EQ(TypeOfProducts(at::Device(at::kCUDA, 0), Precision::kBf16), at::kBFloat16);
}

}  // namespace
}  // namespace tasuki
