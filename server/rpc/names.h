// Checks of resource names in requests. A name that passed is safe to become part of a path.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace tasuki {

// OK, or INVALID_ARGUMENT (FIELD_INVALID) naming field, value and the form that is wanted.
absl::Status CheckDatasetName(absl::string_view name, absl::string_view field = "name");
absl::Status CheckJobName(absl::string_view name, absl::string_view field = "name");
absl::Status CheckModelName(absl::string_view name, absl::string_view field = "name");
absl::Status CheckVersionName(absl::string_view name, absl::string_view field = "name");
absl::Status CheckAliasName(absl::string_view name, absl::string_view field = "name");
// `models/{model}` or `models/{model}/versions/{version}`.
absl::Status CheckModelOrVersionName(absl::string_view name, absl::string_view field = "name");
// One of these, or `models/{model}/aliases/{alias}`.
absl::Status CheckServedName(absl::string_view name, absl::string_view field = "name");

}  // namespace tasuki
