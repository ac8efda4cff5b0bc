// Datasets in the store. Part of Store; thread-safe.
#pragma once

#include <string>

#include "server/store/store.h"
#include "tasuki/v1/datasets.pb.h"

namespace tasuki {

class DatasetTable {
 public:
  explicit DatasetTable(Store& store) : store_(store) {}
  // Inserts, or answers the one that is there under the same name.
  absl::StatusOr<v1::Dataset> Insert(const v1::Dataset& dataset);
  // NOT_FOUND, RESOURCE_NOT_FOUND.
  absl::StatusOr<v1::Dataset> Get(const std::string& name);
  // Newest first.
  absl::StatusOr<Page<v1::Dataset>> List(int page_size, const std::string& page_token);
  // NOT_FOUND; FAILED_PRECONDITION, RESOURCE_IN_USE, naming a job that has not ended and uses it.
  absl::Status Delete(const std::string& name);

 private:
  Store& store_;
};

}  // namespace tasuki
