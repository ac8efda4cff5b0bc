// Datasets: uploaded files of examples, checked row by row and kept in one canonical form.
//
// A dataset's name is `datasets/d-` and the first 16 hex digits of the SHA-256 of its canonical
// form (model/text/examples.h), so the same rows always are the same dataset. While it arrives, a
// file lies in the data directory's `aside`; it gets its place and its row in the store only as a
// whole.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "model/text/dataset_report.h"
#include "server/store/data_directory.h"
#include "server/store/store.h"
#include "tasuki/v1/datasets.pb.h"

namespace tasuki {

struct DatasetLimits {
  // Of an uploaded file.
  int64_t upload_bytes = int64_t{4} << 30;
  // Space that an upload leaves free on the volume, for the store and for running jobs.
  int64_t reserved_bytes = int64_t{64} << 20;
};

// Thread-safe. Getting and listing are the store's: store.datasets().
class Datasets {
 public:
  // A file under way, to an Answer; must not outlive its Datasets. Dropping it removes what has
  // been received. Not thread-safe.
  template <typename Answer>
  class Stream {
   public:
    virtual ~Stream() = default;
    // The next bytes of the file. INVALID_ARGUMENT: COLUMN_MISSING, UNSUPPORTED_FORMAT,
    // ROWS_INVALID (the header), LIMIT_EXCEEDED (file too large, over 10,000 labels).
    // RESOURCE_EXHAUSTED: DISK_FULL (uploads). After an error it is over: drop it.
    virtual absl::Status Append(absl::string_view bytes) = 0;
    // Errors of Append; DATA_LOSS, UPLOAD_CORRUPT if the bytes are not those that the header
    // declared; INVALID_ARGUMENT: DATASET_EMPTY, ROWS_INVALID (uploads). Called once.
    virtual absl::StatusOr<Answer> Finish() = 0;
  };
  using Upload = Stream<v1::Dataset>;              // answers the stored dataset
  using Check = Stream<v1::CheckDatasetResponse>;  // writes nothing

  Datasets(Store& store, const DataDirectory& directory, DatasetLimits limits = {});

  // Begins an upload. INVALID_ARGUMENT, FIELD_INVALID; RESOURCE_EXHAUSTED, DISK_FULL.
  absl::StatusOr<std::unique_ptr<Upload>> Begin(const v1::UploadDatasetHeader& header);
  // Begins a check of the same file. INVALID_ARGUMENT, FIELD_INVALID.
  absl::StatusOr<std::unique_ptr<Check>> BeginCheck(const v1::UploadDatasetHeader& header);

  // The dataset with its first rows, in 3 MiB at most, and the report if it is asked for. See
  // tasuki.v1.DatasetService. INVALID_ARGUMENT, with all faults; NOT_FOUND, of a dataset or
  // version; DATA_LOSS, FILE_CHANGED.
  absl::StatusOr<v1::InspectDatasetResponse> Inspect(const v1::InspectDatasetRequest& request);

  // Deletes the row, then the file. NOT_FOUND; FAILED_PRECONDITION, RESOURCE_IN_USE.
  absl::Status Delete(const std::string& name);

 private:
  class Receiving;
  class Checking;
  // The dataset of that name, its file being there. NOT_FOUND; DATA_LOSS, FILE_CHANGED.
  absl::StatusOr<ReportedDataset> Find(const std::string& name);
  absl::Status Report(const v1::InspectDatasetRequest& request,
                      const std::vector<ReportedDataset>& datasets,
                      v1::InspectDatasetResponse& response);
  // DISK_FULL if `bytes` more would leave less than the reserve.
  absl::Status CheckSpace(int64_t bytes) const;
  // Moves a complete file to its place and inserts its row.
  absl::StatusOr<v1::Dataset> Publish(const std::string& aside, const v1::Dataset& dataset);

  Store& store_;
  const DataDirectory directory_;
  const DatasetLimits limits_;
  std::atomic<int64_t> uploads_ = 0;
  // A row and its file come and go together.
  absl::Mutex mutex_;
};

}  // namespace tasuki
