#include "server/compute.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tasuki {
namespace {

using ::testing::HasSubstr;

// A setup that is wrong for this machine ends the server for good, as one that is wrong everywhere
// does: whoever starts it again and again must be told not to.
TEST(PickCompute, WhatTheCpuCannotDoIsAWrongSetup) {
  Options options;
  options.device = "cpu";
  options.kernels = "portable";
  options.serving_precision = "bf16";
  const auto compute = PickCompute(options);
  EXPECT_TRUE(absl::IsFailedPrecondition(compute.status())) << compute.status();
  EXPECT_THAT(std::string(compute.status().message()), HasSubstr("--serving_precision=bf16 needs"));
}

TEST(PickCompute, TakesTheKernelsAndThreadsOfTheFlags) {
  Options options;
  options.device = "cpu";
  options.kernels = "portable";
  options.serving_threads = 3;
  options.training_threads = 2;
  const auto compute = PickCompute(options);
  ASSERT_TRUE(compute.ok()) << compute.status();
  EXPECT_EQ(compute->serving_kernels, "portable");
  EXPECT_EQ(compute->training_kernels, "portable");
  EXPECT_EQ(compute->serving_threads, 3);
  EXPECT_EQ(compute->training_threads, 2);
}

}  // namespace
}  // namespace tasuki
