#include "model/t5/probe.h"

#include <gtest/gtest.h>

namespace tasuki {
namespace {

TEST(Probe, TakesTheOnlyKernelsThereAre) {
  for (const Kernels* kernels : AvailableKernels()) {
    EXPECT_EQ(&FastestKernels(Precision::kFp32, {kernels}), kernels);
  }
}

TEST(Probe, FindsWhatIsSeveralTimesAsFastWhateverTheOrder) {
  const std::vector<const Kernels*> all = AvailableKernels();
  if (all.size() == 1) GTEST_SKIP() << "this machine has the portable kernels only";
  EXPECT_STRNE(FastestKernels(Precision::kFp32, {all.front(), all.back()}).name, "portable");
  EXPECT_STRNE(FastestKernels(Precision::kFp32, {all.back(), all.front()}).name, "portable");
}

TEST(Probe, MeasuresInEveryPrecision) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16, Precision::kInt8}) {
    for (const Kernels* kernels : AvailableKernels()) {
      if (!CanDo(*kernels, precision)) continue;
      EXPECT_EQ(FastestThreads(*kernels, precision, 64, 1), 1);
      const int threads = FastestThreads(*kernels, precision, 64, 3);
      EXPECT_GE(threads, 1);
      EXPECT_LE(threads, 3);
    }
  }
}

}  // namespace
}  // namespace tasuki
