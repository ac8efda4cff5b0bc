// A model's files on their way in and out of the server.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/files/durable.h"
#include "model/files/sha256.h"
#include "server/store/data_directory.h"
#include "tasuki/v1/models.pb.h"

namespace tasuki {

// Receives the files of a header, one after the other, into a directory of its own under aside/,
// which is removed with the object unless it was published (moved away). Hashes are checked file by
// file. Not thread-safe.
class ModelUpload {
 public:
  // INVALID_ARGUMENT with every fault of the header; RESOURCE_EXHAUSTED, DISK_FULL if the announced
  // bytes do not fit.
  static absl::StatusOr<std::unique_ptr<ModelUpload>> Begin(
      const v1::ImportModelVersionHeader& header, const DataDirectory& data);
  ~ModelUpload();
  ModelUpload(const ModelUpload&) = delete;
  ModelUpload& operator=(const ModelUpload&) = delete;

  // DATA_LOSS, UPLOAD_CORRUPT: a file's hash differs, or there are more bytes than announced.
  absl::Status Append(absl::string_view bytes);
  // DATA_LOSS, UPLOAD_CORRUPT if bytes are missing.
  absl::Status Finish();

  const std::string& directory() const { return directory_; }
  // Hash of what the client announced: two uploads of one request_id must agree in it.
  const std::string& digest() const { return digest_; }

 private:
  ModelUpload(const v1::ImportModelVersionHeader& header, std::string directory);
  // Opens files and closes full ones (empty files are full at once) until one wants bytes.
  absl::Status Advance();

  const std::vector<v1::ModelFile> files_;
  const std::string directory_;
  const std::string digest_;
  size_t current_ = 0;    // index into files_
  int64_t received_ = 0;  // bytes of the current file
  std::optional<FileWriter> writer_;
  Sha256 hash_;
};

// Reads the files of a version for a client. `begin` is called before each file's bytes, `bytes`
// with at most 1 MiB of them at a time; false from either ends it with CANCELLED.
absl::Status ReadModelFiles(const std::string& directory, const std::vector<v1::ModelFile>& files,
                            const std::function<bool(const v1::ModelFile&)>& begin,
                            const std::function<bool(std::string bytes)>& bytes);

}  // namespace tasuki
