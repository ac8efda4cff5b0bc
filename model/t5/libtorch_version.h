// The version of LibTorch, for those who cannot include it.
#pragma once

#include <string>

namespace tasuki {

// "2.11.0".
std::string LibtorchVersion();

}  // namespace tasuki
