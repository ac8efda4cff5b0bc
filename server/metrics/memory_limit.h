// What memory the system grants.
#pragma once

#include <cstdint>
#include <string>

namespace tasuki {

// Bytes that this process and those that it starts may have together: the least limit of its
// control group and the groups above it (cgroups(7), version 1 or 2), or else what the machine has.
// 0 if the system does not tell. `proc` and `cgroups` are where those file systems are mounted.
int64_t MemoryLimitBytes(const std::string& proc = "/proc",
                         const std::string& cgroups = "/sys/fs/cgroup");

}  // namespace tasuki
