// Threads and kernels, which every use of the model in tasuki-trainer sets first. Torch-free.
#pragma once

#include <string>

namespace tasuki {

// Numerics of the whole attempt. Denormal numbers, which the averages of rarely seen words decay
// to, cost a hundred times a normal one; each thread has its own switch.
// `kernels` is a name, or empty for the best of this machine. Answers the name of those that are
// used: the best, if this machine has not what was asked for.
std::string SetNumerics(int threads, const std::string& kernels);

}  // namespace tasuki
