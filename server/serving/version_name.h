// Names of models and versions: `models/{model}` and `models/{model}/versions/{version}`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace tasuki {

// `models/{model}`.
bool IsModelName(absl::string_view name);

struct VersionName {
  std::string model;    // `models/{model}`
  int64_t version = 0;  // 1, 2, 3, …

  // nullopt if `name` is not exactly of the form `models/{model}/versions/{version}`.
  static std::optional<VersionName> Parse(absl::string_view name);
  std::string ToString() const;
  // "sentiment@3", as the command line spells it.
  std::string Short() const;
};

}  // namespace tasuki
