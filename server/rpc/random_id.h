// Names that nobody else has or can guess.
#pragma once

#include <cstdint>
#include <random>
#include <string>

#include "absl/strings/str_format.h"

namespace tasuki {

// 32 hex digits. Thread-safe.
inline std::string RandomId() {
  std::random_device random;
  std::string id;
  for (int i = 0; i < 4; ++i) absl::StrAppendFormat(&id, "%08x", static_cast<uint32_t>(random()));
  return id;
}

}  // namespace tasuki
