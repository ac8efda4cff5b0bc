// Models and versions in the store. Part of Store; thread-safe.
//
// A version is published in two steps, so that a crash between them is repaired by doing both
// again: Reserve gives it its number, the caller puts its directory in place, Publish makes it
// visible. The key (a job's name or an import's request id) makes both idempotent.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "server/store/store.h"
#include "tasuki/v1/models.pb.h"

namespace tasuki {

// Why a version that is loaded, or to be, is not deleted. FAILED_PRECONDITION, RESOURCE_IN_USE.
absl::Status LoadedError(const std::string& version);

class ModelTable {
 public:
  explicit ModelTable(Store& store) : store_(store) {}

  struct Reservation {
    std::string name;        // `models/{model}/versions/{version}`
    bool published = false;  // it was done before
  };
  // The next number of `model` (never one that was used before), or the one that `key` has already.
  // ALREADY_EXISTS, REQUEST_ID_REUSED if `digest` differs from that of the first call with `key`.
  // An empty `key` is never known. A key is forgotten with its version, a job's
  // also with the job.
  absl::StatusOr<Reservation> Reserve(const std::string& model, const std::string& key,
                                      const std::string& digest);
  // Stores the version (its `name` was reserved) and makes it visible. `load` is remembered:
  // whether it is to be loaded now and after a restart.
  absl::StatusOr<v1::ModelVersion> Publish(const v1::ModelVersion& version, bool load);
  // Forgets a reservation that came to nothing; its number is not given again. A published version
  // stays.
  absl::Status Release(const std::string& name);
  // Forgets the reservations that nobody comes back for: of imports, and of jobs that have ended or
  // are gone. For the start of a server, before anything is published.
  absl::Status ReleaseAbandoned();
  // Whether the version's number was given and nobody has it any more: the version was deleted, or
  // its reservation came to nothing.
  absl::StatusOr<bool> IsForgotten(const std::string& name);

  // `models/{m}/versions/{n}`, or `models/{m}` for the newest. NOT_FOUND, RESOURCE_NOT_FOUND.
  absl::StatusOr<v1::ModelVersion> GetVersion(const std::string& name);
  absl::StatusOr<v1::Model> GetModel(const std::string& name);
  // By name; models without a version are not listed.
  absl::StatusOr<Page<v1::Model>> ListModels(int page_size, const std::string& page_token);
  // Newest first. NOT_FOUND if the model has none.
  absl::StatusOr<Page<v1::ModelVersion>> ListVersions(const std::string& model, int page_size,
                                                      const std::string& page_token);
  // Whether the version is to be loaded, now and after a restart, whatever aliases say.
  absl::Status SetLoad(const std::string& name, bool load);
  absl::StatusOr<bool> IsToLoad(const std::string& name);
  // Versions that are to be loaded.
  absl::StatusOr<std::vector<v1::ModelVersion>> ToLoad();
  // FAILED_PRECONDITION, RESOURCE_IN_USE, naming the alias that names the version, or a job that
  // has not ended and published it or starts from it.
  absl::Status CheckUnneeded(const std::string& name);
  // Deletes a version. NOT_FOUND; FAILED_PRECONDITION as above, or if it is to be loaded.
  absl::Status DeleteVersion(const std::string& name);

 private:
  Store& store_;
};

}  // namespace tasuki
