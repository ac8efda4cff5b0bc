#include "server/metrics/memory_limit.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace tasuki {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kGiB = int64_t{1} << 30;

class MemoryLimitTest : public ::testing::Test {
 protected:
  MemoryLimitTest() { Write("proc/meminfo", "MemTotal:       16777216 kB\nMemFree: 12 kB\n"); }
  ~MemoryLimitTest() override { fs::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  int64_t Limit() const { return MemoryLimitBytes(root_ / "proc", root_ / "cgroup"); }

 private:
  const fs::path root_ = absl::StrCat(testing::TempDir(), "memory_limit_test.", getpid());
};

TEST_F(MemoryLimitTest, WithoutALimitItIsTheMachines) {
  EXPECT_EQ(Limit(), 16 * kGiB);
  Write("proc/self/cgroup", "0::/user.slice\n");
  Write("cgroup/user.slice/memory.max", "max\n");
  EXPECT_EQ(Limit(), 16 * kGiB);
}

TEST_F(MemoryLimitTest, TheLeastOfTheGroupsAboveCounts) {
  Write("proc/self/cgroup", "0::/system.slice/tasukid.service\n");
  Write("cgroup/system.slice/tasukid.service/memory.max", "max\n");
  Write("cgroup/system.slice/memory.max", absl::StrCat(4 * kGiB, "\n"));
  EXPECT_EQ(Limit(), 4 * kGiB);
  Write("cgroup/system.slice/tasukid.service/memory.max", absl::StrCat(3 * kGiB, "\n"));
  EXPECT_EQ(Limit(), 3 * kGiB);
}

TEST_F(MemoryLimitTest, AContainerSeesItsGroupAsTheTopmost) {
  Write("proc/self/cgroup", "0::/\n");
  Write("cgroup/memory.max", absl::StrCat(2 * kGiB, "\n"));
  EXPECT_EQ(Limit(), 2 * kGiB);
}

TEST_F(MemoryLimitTest, VersionOneHasAHierarchyOfItsOwn) {
  // The path is the machine's, which a container does not see.
  Write("proc/self/cgroup", "5:cpu,cpuacct:/docker/a\n4:memory:/docker/a\n0::/\n");
  Write("cgroup/memory/memory.limit_in_bytes", absl::StrCat(kGiB, "\n"));
  EXPECT_EQ(Limit(), kGiB);
  Write("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");  // as it says "none"
  EXPECT_EQ(Limit(), 16 * kGiB);
}

TEST(MemoryLimit, ThisMachineTellsOne) { EXPECT_GT(MemoryLimitBytes(), 0); }

}  // namespace
}  // namespace tasuki
