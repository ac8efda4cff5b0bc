#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>

#include <exception>
#include <mutex>

#include "model/t5/cuda_plugin.h"

namespace tasuki {
namespace {

class CudaGraph : public Graph {
 public:
  explicit CudaGraph(c10::MempoolId_t pool) : pool_(pool) {}

  void Capture(const std::function<void()>& work) override {
    // The allocator gives nothing back while something is captured, in whichever thread.
    static std::mutex turns;
    const std::lock_guard turn(turns);
    // What lies unused for passes without a graph is free for those with one: while something is
    // captured the allocator takes nothing from there.
    c10::cuda::CUDACachingAllocator::emptyCache();
    // Other threads go on allocating, which in the default mode would end the capture.
    graph_.capture_begin(pool_, cudaStreamCaptureModeThreadLocal);
    std::exception_ptr error;
    try {
      work();
    } catch (...) {
      error = std::current_exception();
    }
    try {
      graph_.capture_end();
    } catch (...) {
      if (error == nullptr) throw;
    }
    if (error != nullptr) std::rethrow_exception(error);
  }
  void Replay() override { graph_.replay(); }

 private:
  const c10::MempoolId_t pool_;
  at::cuda::CUDAGraph graph_;
};

class CudaGraphMaker : public GraphMaker {
 public:
  std::unique_ptr<Graph> Make() override { return std::make_unique<CudaGraph>(pool_); }

 private:
  const c10::MempoolId_t pool_ = at::cuda::graph_pool_handle();
};

class Plugin : public CudaPlugin {
 public:
  std::string NameOf(int device) const override {
    cudaDeviceProp properties;
    C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
    return properties.name;
  }

  void Enter(int device) const override {
    thread_local int entered = -1;
    if (entered == device) return;
    const auto index = static_cast<c10::DeviceIndex>(device);
    c10::cuda::set_device(index);
    // Not the device: another thread may be capturing.
    c10::cuda::getCurrentCUDAStream(index).synchronize();
    c10::cuda::setCurrentCUDAStream(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, index));
    entered = device;
  }

  std::unique_ptr<GraphMaker> MakeGraphMaker(int) const override {
    return std::make_unique<CudaGraphMaker>();
  }
};

}  // namespace
}  // namespace tasuki

// NOLINTNEXTLINE(readability-identifier-naming): the name by which it is found
extern "C" const tasuki::CudaPlugin* TasukiCudaPlugin() {
  static const tasuki::Plugin plugin;
  return &plugin;
}
