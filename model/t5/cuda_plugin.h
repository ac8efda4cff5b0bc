// What device.cc asks of CUDA itself, and model/cuda answers: it opens that library by its name,
// finds kPluginFunction in it, and calls what that answers; both are of one build.
#pragma once

#include <memory>
#include <string>

#include "model/t5/graphs.h"

namespace tasuki {

// Devices are CUDA's numbers. All may throw c10::Error. Thread-safe.
class CudaPlugin {
 public:
  virtual ~CudaPlugin() = default;
  // Its name, as the driver has it.
  virtual std::string NameOf(int device) const = 0;
  // Makes it the calling thread's, with a stream that is no other thread's (of 32), once all that
  // was launched on it before is done.
  virtual void Enter(int device) const = 0;
  virtual std::unique_ptr<GraphMaker> MakeGraphMaker(int device) const = 0;
};

inline constexpr char kPluginLibrary[] = "libtasuki-cuda.so";
inline constexpr char kPluginFunction[] = "TasukiCudaPlugin";
using PluginFunction = const CudaPlugin* (*)();

}  // namespace tasuki
