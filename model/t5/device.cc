#include "model/t5/device.h"

#include <ATen/Context.h>
#include <ATen/ops/ones.h>
#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <exception>
#include <new>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "model/t5/cuda_plugin.h"

namespace tasuki {
namespace {

constexpr char kDriver[] = "libcuda.so.1";

// Set once there is a GPU that can be used.
std::atomic<const CudaPlugin*> plugin_in_use = nullptr;

// Of "cuda" or "cuda:N"; nullopt for anything else.
std::optional<int> CudaNumber(absl::string_view device) {
  if (!absl::ConsumePrefix(&device, "cuda")) return std::nullopt;
  if (device.empty()) return 0;
  int number = 0;
  const bool valid = absl::ConsumePrefix(&device, ":") && absl::SimpleAtoi(device, &number) &&
                     number >= 0 && number < 128 && device == absl::StrCat(number);
  return valid ? std::optional(number) : std::nullopt;
}

// "" and the plugin, or what is missing.
std::string LoadPlugin(const CudaPlugin*& plugin) {
  if (dlopen(kDriver, RTLD_NOW) == nullptr) {
    return absl::StrCat("this machine has no NVIDIA driver (no ", kDriver, ")");
  }
  void* const library = dlopen(kPluginLibrary, RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) {
    const std::string error = dlerror();
    if (absl::StartsWith(error, absl::StrCat(kPluginLibrary, ":"))) {
      return "this build has no GPU libraries; fetch them with script/bootstrap --cuda and build "
             "again";
    }
    return absl::StrCat("LibTorch's GPU libraries cannot be loaded (", error,
                        "); script/bootstrap --cuda fetches all of them");
  }
  const auto function = reinterpret_cast<PluginFunction>(dlsym(library, kPluginFunction));
  if (function == nullptr) return absl::StrCat(kPluginLibrary, " is of another build");
  plugin = function();
  return "";
}

// The first line of what LibTorch says.
std::string Reason(const std::exception& error) {
  const auto* const torch = dynamic_cast<const c10::Error*>(&error);
  const std::string what = torch != nullptr ? torch->what_without_backtrace() : error.what();
  return what.substr(0, what.find('\n'));
}

// "" and the GPU's name, or what is missing.
std::string OpenCuda(int number, std::string& name) {
  const CudaPlugin* plugin = nullptr;
  if (std::string missing = LoadPlugin(plugin); !missing.empty()) return missing;
  try {
    at::globalContext().lazyInitDevice(at::kCUDA);  // throws if there is no device, and says why
    const int count = at::detail::getCUDAHooks().getNumGPUs();
    if (number >= count) return absl::StrCat("this machine has ", count, " of them");
    // Its gradients are wrong for some lengths where a bias is given (2.11, Hopper).
    at::globalContext().setSDPUseCuDNN(false);
    // Sums of bf16 products are fp32 to the end.
    at::globalContext().setAllowBF16ReductionCuBLAS(false);
    plugin->Enter(number);
    const at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(number));
    if (at::ones({8}, device).sum().item<double>() != 8) return "it computes wrong sums";
    name = plugin->NameOf(number);
  } catch (const std::exception& error) {
    return absl::StrCat("LibTorch says: ", Reason(error));
  }
  plugin_in_use = plugin;
  return "";
}

}  // namespace

std::string CheckDeviceName(absl::string_view device) {
  if (device == "auto" || device == "cpu" || CudaNumber(device)) return "";
  return absl::StrCat("\"", device, "\" is not a device; use auto, cpu or cuda:N");
}

absl::StatusOr<Device> OpenDevice(const std::string& device) {
  if (std::string fault = CheckDeviceName(device); !fault.empty()) {
    return absl::InvalidArgumentError(fault);
  }
  if (device == "cpu") return Device();
  const int number = CudaNumber(device).value_or(0);
  const std::string name = absl::StrCat("cuda:", number);
  std::string model;
  const std::string missing = OpenCuda(number, model);
  if (missing.empty()) return Device{.name = name, .model = model};
  if (device == "auto") return Device{.no_gpu = missing};
  return absl::FailedPreconditionError(absl::StrCat(name, " cannot be used: ", missing));
}

void EnterDevice(const std::string& device) {
  const CudaPlugin* const plugin = plugin_in_use;
  if (plugin != nullptr && device != "cpu") plugin->Enter(CudaNumber(device).value());
}

bool SaysOutOfMemory(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return true;
  const auto* const torch = dynamic_cast<const c10::Error*>(&error);
  if (torch == nullptr) return false;
  // "DefaultCPUAllocator: can't allocate memory: …"; "CUDA out of memory."
  const char* const what = torch->what_without_backtrace();
  return absl::StrContains(what, "allocate memory") || absl::StrContains(what, "out of memory");
}

std::unique_ptr<GraphMaker> MakeGraphMaker(at::Device device) {
  // For finding out whether an error comes from them.
  const char* const wanted = std::getenv("TASUKI_CUDA_GRAPHS");
  if (!device.is_cuda() || (wanted != nullptr && absl::string_view(wanted) == "off")) {
    return nullptr;
  }
  const CudaPlugin* const plugin = plugin_in_use;
  return plugin == nullptr ? nullptr : plugin->MakeGraphMaker(device.index());
}

}  // namespace tasuki
