// Names of models, versions and aliases: `models/{model}`, `models/{model}/versions/{version}` and
// `models/{model}/aliases/{alias}`.
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

struct AliasName {
  std::string model;  // `models/{model}`
  std::string alias;

  // nullopt if `name` is not exactly of the form `models/{model}/aliases/{alias}`.
  static std::optional<AliasName> Parse(absl::string_view name);
  std::string ToString() const;
};

}  // namespace tasuki
