#include "server/compute.h"

#include <algorithm>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/t5/kernels.h"
#include "model/t5/probe.h"

namespace tasuki {
namespace {

// Rows of a product: of a text or two, and of a training step.
constexpr int64_t kServingRows = 64, kTrainingRows = 256;

std::vector<const Kernels*> Candidates(const std::string& name, Precision precision) {
  std::vector<const Kernels*> candidates;
  for (const Kernels* kernels : AvailableKernels()) {
    const bool wanted = name == "auto" || name == kernels->name;
    if (wanted && CanDo(*kernels, precision)) candidates.push_back(kernels);
  }
  return candidates;
}

}  // namespace

absl::StatusOr<Compute> PickCompute(const Options& options) {
  const absl::StatusOr<Device> device = OpenDevice(options.device);
  if (!device.ok()) return device.status();
  if (!device->is_cpu() && options.serving_precision == "int8") {
    return absl::FailedPreconditionError(
        absl::StrCat("--serving_precision=int8 is for CPUs, and the device is ", device->name,
                     "; use bf16, or --device=cpu"));
  }
  // On a GPU the kernels multiply nothing.
  const Precision precision =
      device->is_cpu() ? PrecisionNamed(options.serving_precision).value() : Precision::kFp32;
  const std::vector<const Kernels*> all = Candidates(options.kernels, Precision::kFp32);
  if (all.empty()) {
    return absl::FailedPreconditionError(absl::StrCat("--kernels=", options.kernels,
                                                      " is not for this CPU; its best are ",
                                                      AvailableKernels().front()->name));
  }
  const std::vector<const Kernels*> able = Candidates(options.kernels, precision);
  if (able.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("--serving_precision=", options.serving_precision,
                     " needs a CPU with AVX512-BF16 and AVX512-VNNI, and kernels that use them; "
                     "here they are ",
                     all.front()->name));
  }
  const Kernels& training = FastestKernels(Precision::kFp32, all);
  const Kernels& serving =
      precision == Precision::kFp32 ? training : FastestKernels(precision, able);
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  Compute compute = {*device, serving.name, training.name, options.serving_threads,
                     options.training_threads};
  if (compute.serving_threads == 0) {
    compute.serving_threads = FastestThreads(serving, precision, kServingRows, cores);
  }
  if (compute.training_threads == 0) {
    compute.training_threads = FastestThreads(training, Precision::kFp32, kTrainingRows, cores);
  }
  return compute;
}

}  // namespace tasuki
