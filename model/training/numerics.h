// What every use of the model in tasuki-trainer has in common: threads, device, lack of memory.
// Includes torch.
#pragma once

#include <exception>
#include <string>

#include "model/t5/weights.h"

namespace tasuki {

// Numerics of the whole attempt. Denormal numbers, which the averages of rarely seen words decay
// to, cost a hundred times a normal one; each thread has its own switch.
// `kernels` is a name, or empty for the best of this machine. Answers the name of those that are
// used: the best, if this machine has not what was asked for.
std::string SetNumerics(int threads, const std::string& kernels);

// `device` is `cpu` or `cuda:N`.
WeightMap OnDevice(WeightMap weights, const std::string& device);

// Whether it was thrown for lack of memory, by C++ or by LibTorch.
bool SaysOutOfMemory(const std::exception& error);

}  // namespace tasuki
