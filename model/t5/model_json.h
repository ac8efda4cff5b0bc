// JSON files of a model directory, which come from strangers. Private to model/t5.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tasuki {

// INVALID_ARGUMENT, MODEL_INVALID: `file` is at fault because of `cause`.
absl::Status ModelInvalid(absl::string_view file, absl::string_view cause);

// The object in a file. INVALID_ARGUMENT, MODEL_INVALID: not there, longer than `max_bytes`, not
// JSON, not an object, a key twice, nested deeper than 16.
absl::StatusOr<nlohmann::json> ReadModelJson(const std::string& path, size_t max_bytes);

}  // namespace tasuki
