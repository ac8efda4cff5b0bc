// The device that training and serving compute on: the one place that looks for a GPU. Torch-free.
//
// The program links LibTorch's CPU part alone. What needs CUDA's own symbols is a plugin
// (model/cuda), which brings LibTorch's GPU libraries into the process when it is opened; from then
// on the same operators compute on tensors of the GPU. It is built where script/bootstrap --cuda
// has fetched these libraries.
#pragma once

#include <exception>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tasuki {

struct Device {
  std::string name = "cpu";  // or "cuda:N"
  std::string model;         // of the GPU, as its driver names it
  std::string no_gpu;        // of `auto` that came to the CPU: why, as a sentence without its stop

  bool is_cpu() const { return name == "cpu"; }
};

// "" if `device` is "auto", "cpu" or "cuda:N"; else what is wrong with it.
std::string CheckDeviceName(absl::string_view device);

// Finds what `device` (see CheckDeviceName; "cuda" is the first) comes to on this machine, and
// makes it ready for this process: libraries loaded, a first kernel run. `auto` takes the first GPU
// if it can be used, and the CPU else. To be called before anything else of torch is, if there may
// be a GPU; may be called again. FAILED_PRECONDITION, saying what is missing: the named GPU cannot
// be used. Takes a second or two if there is one.
absl::StatusOr<Device> OpenDevice(const std::string& device);

// To be called, any number of times, on each thread that computes on an opened device, before it
// does: makes the GPU the thread's own, with a stream of its own, since graphs cannot be captured
// on the default one. Nothing on a CPU.
void EnterDevice(const std::string& device);

// Whether it was thrown for lack of memory, by C++ or by LibTorch.
bool SaysOutOfMemory(const std::exception& error);

}  // namespace tasuki
