// Resource names as people type them → as the protos have them. INVALID_ARGUMENT says what form was
// expected. Functions of values: any thread.
//
//   d-0123456789abcdef, datasets/d-0123456789abcdef   → datasets/d-0123456789abcdef
//   nightly, trainingJobs/nightly                     → trainingJobs/nightly
//   sentiment, models/sentiment                       → models/sentiment
//   sentiment@3, models/sentiment/versions/3          → models/sentiment/versions/3
//   sentiment@production, models/sentiment/aliases/production → models/sentiment/aliases/production
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tasuki::cli {

absl::StatusOr<std::string> DatasetName(absl::string_view typed);
absl::StatusOr<std::string> JobName(absl::string_view typed);
absl::StatusOr<std::string> ModelName(absl::string_view typed);
// A version must be named.
absl::StatusOr<std::string> VersionName(absl::string_view typed);
// A model stands for its newest version; the server knows which that is.
absl::StatusOr<std::string> ModelOrVersionName(absl::string_view typed);
absl::StatusOr<std::string> AliasName(absl::string_view typed);
// One of these three.
absl::StatusOr<std::string> ServedName(absl::string_view typed);

// What follows the collection: "nightly" of "trainingJobs/nightly", "sentiment@3" of a version.
std::string ShortName(absl::string_view name);

}  // namespace tasuki::cli
