// Making a directory a version of a model, in steps that a crash may interrupt anywhere.
//
//   reserve a number under the key → check → complete tasuki.json → move the directory into place
//   → make the version visible
//
// The same call again, with the same key, goes on where the first one ended: the number is reserved
// for the key, and a directory in place is complete.
#pragma once

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "server/store/data_directory.h"
#include "server/store/model_table.h"
#include "tasuki/v1/models.pb.h"

namespace tasuki {

// What to publish, and how.
struct Publication {
  std::string model;      // `models/{model}`
  std::string directory;  // on the volume of the data directory; it is moved
  // Publishing again under the same key answers the first version; with another digest it is
  // ALREADY_EXISTS, REQUEST_ID_REUSED.
  std::string key;
  std::string digest;
  bool check = false;  // a stranger's files: run `tasuki-trainer --check` on them first
  std::function<bool()> cancelled;  // ends the check; may be empty
  bool load = false;                // to be loaded, now and after restarts, if it has tasks
};

// INVALID_ARGUMENT, MODEL_INVALID: the check failed; nothing was published. Blocks as long as the
// check runs. Thread-safe, but no two calls with the same key at a time.
absl::StatusOr<v1::ModelVersion> PublishVersion(ModelTable& table, const DataDirectory& data,
                                                const std::string& trainer_path,
                                                const Publication& publication);

// At the start of a server, before anything is published: removes the directories that a crash left
// of versions that were deleted or never came to be, and says so in the log. Others than those of
// numbers that the store gave are left alone. Best effort.
void SweepVersions(ModelTable& table, const DataDirectory& data);

}  // namespace tasuki
