// The tables of the store and how they came to be. Private to server/store.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace soci {
class session;
}

namespace tasuki {

// OK for an empty database and for one of this or an older schema; otherwise as Store::Open says.
// Writes nothing. `path` is for messages. May throw what SOCI throws.
absl::Status CheckSchema(soci::session& sql, const std::string& path);

// Brings a checked database to this schema. Runs inside the caller's transaction; may throw what
// SOCI throws.
void Migrate(soci::session& sql);

}  // namespace tasuki
