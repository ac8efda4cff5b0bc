// Aliases of models in the store. Part of Store; thread-safe.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "server/store/store.h"
#include "tasuki/v1/models.pb.h"

namespace tasuki {

class AliasTable {
 public:
  explicit AliasTable(Store& store) : store_(store) {}

  // Points `models/{m}/aliases/{a}`, made if it is not there, to a version of that model; `change`
  // says why, its time is set. A change to the version that it names already is none; its shadow
  // ends if that is the new version. NOT_FOUND if the version is not published.
  absl::StatusOr<v1::ModelAlias> Set(const std::string& name, const v1::ModelAlias::Change& change);
  // Sets its shadow; an empty one ends it. NOT_FOUND: alias or version. INVALID_ARGUMENT: the
  // alias' own version.
  absl::StatusOr<v1::ModelAlias> SetShadow(const std::string& name, const std::string& version);
  // NOT_FOUND.
  absl::StatusOr<v1::ModelAlias> Get(const std::string& name);
  absl::Status Delete(const std::string& name);
  // By name.
  absl::StatusOr<Page<v1::ModelAlias>> List(const std::string& model, int page_size,
                                            const std::string& page_token);
  // Of all models.
  absl::StatusOr<std::vector<v1::ModelAlias>> All();
  // The aliases that name a version, as theirs or as their shadow.
  absl::StatusOr<std::vector<std::string>> Of(const std::string& version);
  // FAILED_PRECONDITION, RESOURCE_IN_USE if there is one, naming it.
  absl::Status CheckUnnamed(const std::string& version);

 private:
  Store& store_;
};

}  // namespace tasuki
