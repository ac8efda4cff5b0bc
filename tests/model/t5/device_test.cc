#include "model/t5/device.h"

#include <ATen/ATen.h>
#include <dlfcn.h>

#include <new>
#include <stdexcept>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tasuki {
namespace {

using ::testing::HasSubstr;

bool HasDriver() { return dlopen("libcuda.so.1", RTLD_LAZY) != nullptr; }

TEST(CheckDeviceName, KnowsAutoTheCpuAndGpusByNumber) {
  for (const char* device : {"auto", "cpu", "cuda", "cuda:0", "cuda:12"}) {
    EXPECT_EQ(CheckDeviceName(device), "") << device;
  }
  for (const char* device : {"", "tpu", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "cuda: 1",
                             "cuda:01", "cuda1", "cuda:1000", "CPU"}) {
    EXPECT_THAT(CheckDeviceName(device), HasSubstr("is not a device")) << device;
    EXPECT_TRUE(absl::IsInvalidArgument(OpenDevice(device).status())) << device;
  }
}

TEST(OpenDevice, OpensTheCpuEverywhere) {
  const auto device = OpenDevice("cpu");
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_TRUE(device->is_cpu());
  EXPECT_EQ(device->no_gpu, "") << "nobody asked";
  EnterDevice("cpu");
}

TEST(OpenDevice, SaysWhatIsMissingForAGpu) {
  if (HasDriver()) GTEST_SKIP() << "there may be a GPU";
  const auto device = OpenDevice("auto");
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ(device->name, "cpu");
  EXPECT_THAT(device->no_gpu, HasSubstr("no NVIDIA driver"));
  const auto gpu = OpenDevice("cuda:1");
  EXPECT_TRUE(absl::IsFailedPrecondition(gpu.status())) << gpu.status();
  EXPECT_THAT(std::string(gpu.status().message()),
              HasSubstr("cuda:1 cannot be used: this machine has no NVIDIA driver"));
}

TEST(OpenDevice, OpensAGpuAsOftenAsItIsAsked) {
  if (!HasDriver()) GTEST_SKIP() << "no driver, so no GPU";
  for (int i = 0; i < 2; ++i) {
    const auto device = OpenDevice("cuda:0");
    ASSERT_TRUE(device.ok()) << device.status();
    EXPECT_EQ(device->name, "cuda:0");
    EXPECT_NE(device->model, "");
  }
}

TEST(SaysOutOfMemory, KnowsThatOfCppAndOfLibTorch) {
  EXPECT_TRUE(SaysOutOfMemory(std::bad_alloc()));
  EXPECT_TRUE(SaysOutOfMemory(c10::OutOfMemoryError({}, "CUDA out of memory. Tried to allocate")));
  EXPECT_FALSE(SaysOutOfMemory(c10::Error({}, "sizes do not fit")));
  EXPECT_FALSE(SaysOutOfMemory(std::runtime_error("out of memory")));
  try {
    at::empty({int64_t{1} << 48});
    FAIL() << "a petabyte";
  } catch (const std::exception& error) {
    EXPECT_TRUE(SaysOutOfMemory(error)) << error.what();
  }
}

}  // namespace
}  // namespace tasuki
