// What the tables share about rows. Private to server/store. The functions that take a session run
// inside a transaction and may throw.
#pragma once

#include <soci/soci.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/timestamp.pb.h"

namespace tasuki {

// NOT_FOUND, RESOURCE_NOT_FOUND: `"datasets/x" does not exist`.
absl::Status NoSuch(absl::string_view name);

// Microseconds since the epoch, as every time in the store.
google::protobuf::Timestamp Now();

// The states of jobs that have ended, for a list in SQL.
std::string EndedStates();

// FAILED_PRECONDITION, RESOURCE_IN_USE, if a job that has not ended refers to `name` (a dataset or
// a model version); the message names the job.
absl::Status CheckUnused(soci::session& sql, const std::string& name);

// The aliases that name a version, as theirs or as their shadow.
std::vector<std::string> AliasesOf(soci::session& sql, const std::string& version);

// FAILED_PRECONDITION, RESOURCE_IN_USE, if an alias names a version; the message names the alias.
absl::Status CheckUnnamed(soci::session& sql, const std::string& version);

// Whether the dataset, or the published model version, exists.
bool Exists(soci::session& sql, const std::string& name);

}  // namespace tasuki
