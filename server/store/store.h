// The store: the only SQL of the server.
//
// SQLite (WAL, synchronous=FULL) through SOCI. One writer session, whose transactions begin with
// BEGIN IMMEDIATE, and a small pool of readers. Messages are stored as protobuf JSON; columns
// beside them exist to be searched. Every call is one transaction and returns after it is on disk.
// Errors common to all calls: UNAVAILABLE (STORE_UNAVAILABLE), RESOURCE_EXHAUSTED (DISK_FULL).
// Thread-safe.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tasuki {

class Metrics;
class AliasTable;
class DatasetTable;
class JobTable;
class ModelTable;

// A page of a listing. `next_page_token` is empty on the last page. A page_token that was not made
// by the same listing is INVALID_ARGUMENT, PAGE_TOKEN_INVALID. Page sizes: 0 means 50, over 1,000
// means 1,000, negative is INVALID_ARGUMENT.
template <typename T>
struct Page {
  std::vector<T> rows;
  std::string next_page_token;
};

class Store {
 public:
  // Opens or creates the SQLite file at `path` and migrates it to this version's schema.
  // FAILED_PRECONDITION if it has a newer schema (both versions are named; the file is left alone),
  // DATA_LOSS if it is not a database or fails its quick check.
  static absl::StatusOr<std::unique_ptr<Store>> Open(const std::string& path, Metrics& metrics);
  ~Store();

  DatasetTable& datasets() { return *datasets_; }
  JobTable& jobs() { return *jobs_; }
  ModelTable& models() { return *models_; }
  AliasTable& aliases() { return *aliases_; }

 private:
  Store();
  class Sessions;
  friend class AliasTable;
  friend class DatasetTable;
  friend class JobTable;
  friend class ModelTable;
  std::unique_ptr<Sessions> sessions_;
  std::unique_ptr<DatasetTable> datasets_;
  std::unique_ptr<JobTable> jobs_;
  std::unique_ptr<ModelTable> models_;
  std::unique_ptr<AliasTable> aliases_;
};

}  // namespace tasuki
