// Starting a program that inherits nothing of ours but what it is given.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

namespace tasuki {

struct Spawning {
  std::string program;                 // path, not searched for
  std::vector<std::string> arguments;  // without its name
  // Ours that become its 0, 1, 2, …; -1 stands for /dev/null. REQUIRES: all above those.
  std::vector<int> descriptors;
  bool own_group = false;                               // a process group of its own
  std::map<std::string, std::string> environment = {};  // beside and instead of ours
};

// Starts it with default signals, none blocked. 0, or an errno value.
int Spawn(const Spawning& spawning, pid_t& pid);

}  // namespace tasuki
