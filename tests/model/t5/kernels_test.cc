#include "model/t5/kernels.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace tasuki {
namespace {

std::vector<float> Numbers(int64_t count, uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> numbers(count);
  for (float& number : numbers) number = normal(engine);
  return numbers;
}

class KernelsTest : public testing::TestWithParam<const Kernels*> {
 protected:
  const Kernels& kernels_ = *GetParam();
};

// a b for both layouts of both, all endings of rows and columns, depths beyond one block, and a
// share of the columns, against sums in double precision.
TEST_P(KernelsTest, MultipliesMatricesThatAreUsedOnce) {
  const std::vector<float> numbers = Numbers(4000 * 60, 1), others = Numbers(4000 * 120, 2);
  for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
    if (!CanDo(kernels_, precision)) continue;
    for (const int64_t rows : {1, 7, 8, 21}) {
      for (const int64_t inner : {1, 5, 32, 100, 1601}) {
        for (const int64_t columns : {3, 48, 100}) {
          for (const bool turned_a : {false, true}) {
            for (const bool turned_b : {false, true}) {
              const Matrix a =
                  turned_a ? Matrix{numbers.data(), 1, rows} : Matrix{numbers.data(), inner, 1};
              const Matrix b =
                  turned_b ? Matrix{others.data(), 1, inner} : Matrix{others.data(), columns, 1};
              const int64_t stride = columns + 5;
              std::vector<float> result(rows * stride, 7);
              for (int64_t first = 0; first < columns; first += kernels_.panel) {
                kernels_.product(precision, a, b, rows, inner, columns, first,
                                 first + kernels_.panel, {result.data(), stride}, ProductScratch());
              }
              double worst = 0;
              for (int64_t i = 0; i < rows; ++i) {
                for (int64_t j = 0; j < stride; ++j) {
                  if (j >= columns) {
                    ASSERT_EQ(result[i * stride + j], 7) << "written beyond the last column";
                    continue;
                  }
                  double sum = 0;
                  for (int64_t k = 0; k < inner; ++k) {
                    sum +=
                        double{a.data[i * a.row + k * a.column]} * b.data[k * b.row + j * b.column];
                  }
                  worst = std::max(worst, std::abs(result[i * stride + j] - sum));
                }
              }
              // Roundings of sums that grow like the root of their length, as many as it; and, of
              // the operands to bf16, 2^-9 at most and independent.
              const double length = static_cast<double>(inner);
              const double bound =
                  precision == Precision::kFp32 ? 2e-6 + 2e-7 * length : 3e-2 * std::sqrt(length);
              EXPECT_LE(worst, bound)
                  << PrecisionName(precision) << " " << rows << " x " << inner << " x " << columns
                  << (turned_a ? " a turned" : "") << (turned_b ? " b turned" : "");
            }
          }
        }
      }
    }
  }
}

TEST_P(KernelsTest, DropsTheWantedShareAndScalesTheRest) {
  constexpr int64_t kCount = 64 * 1000 + 17;
  const std::vector<float> x(kCount, 2), base(kCount, 10);
  std::vector<float> y(kCount);
  kernels_.dropout(x.data(), base.data(), y.data(), kCount, .25f, 12345, 0);
  int64_t dropped = 0;
  for (const float value : y) {
    if (value == 10) {
      ++dropped;
    } else {
      ASSERT_FLOAT_EQ(value, 10 + 2 / .75f);
    }
  }
  // Five standard deviations.
  EXPECT_NEAR(static_cast<double>(dropped) / kCount, .25, 5 * std::sqrt(.25 * .75 / kCount));
}

// A job that goes on with other kernels, or another number of threads, drops the same.
TEST_P(KernelsTest, DropsTheSameInPartsAndWithOtherKernels) {
  constexpr int64_t kCount = 64 * 9 + 5;
  const std::vector<float> x = Numbers(kCount, 3);
  std::vector<float> whole(kCount), parts(kCount);
  AvailableKernels().back()->dropout(x.data(), nullptr, whole.data(), kCount, .1f, ~7ull, 0);
  const int64_t cut = 3 * kDropoutBlock;
  kernels_.dropout(x.data(), nullptr, parts.data(), cut, .1f, ~7ull, 0);
  kernels_.dropout(x.data() + cut, nullptr, parts.data() + cut, kCount - cut, .1f, ~7ull, cut);
  EXPECT_EQ(whole, parts);
  kernels_.dropout(x.data(), nullptr, parts.data(), kCount, .1f, ~8ull, 0);
  EXPECT_NE(whole, parts);
}

INSTANTIATE_TEST_SUITE_P(OfThisMachine, KernelsTest, testing::ValuesIn(AvailableKernels()),
                         [](const auto& kernels) { return kernels.param->name; });

// Counters and keys of Random123's own known answers: philox4x32-10 of zeros is 6627e8d5 e169c58d
// bc57ac4c 9b00dbd8. With share 0.5 a number of 16 bits below 0x8000 drops.
TEST(Kernels, DropByPhilox) {
  const std::vector<float> x(64, 1);
  std::vector<float> y(64);
  BestKernels().dropout(x.data(), nullptr, y.data(), 64, .5f, 0, 0);
  const uint16_t front[4] = {0xe8d5, 0x6627, 0xc58d, 0xe169},
                 back[4] = {0xac4c, 0xbc57, 0xdbd8, 0x9b00};
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(y[i], front[i] >= 0x8000 ? 2 : 0) << i;
    EXPECT_EQ(y[32 + i], back[i] >= 0x8000 ? 2 : 0) << i;
  }
}

}  // namespace
}  // namespace tasuki
