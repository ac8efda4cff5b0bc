// What serving and training compute with: what the flags say, and else what a short measurement at
// the start finds fastest on this machine. Constant afterwards.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "model/t5/device.h"
#include "server/options.h"

namespace tasuki {

struct Compute {
  Device device;
  std::string serving_kernels, training_kernels;
  int serving_threads = 1, training_threads = 1;
};

// Takes a few tenths of a second at most, and a second or two if there is a GPU. On a GPU, kernels
// and threads are what the CPU's part is done with. FAILED_PRECONDITION: the GPU that was asked for
// cannot be used, this CPU has not the kernels, or either cannot do the precision.
absl::StatusOr<Compute> PickCompute(const Options& options);

}  // namespace tasuki
