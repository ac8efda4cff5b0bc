#include "model/t5/libtorch_version.h"

#include <torch/version.h>

namespace tasuki {

std::string LibtorchVersion() { return TORCH_VERSION; }

}  // namespace tasuki
