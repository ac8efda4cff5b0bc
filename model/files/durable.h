// Files and directories that are either there as a whole or not there.
//
// Everything that must survive a crash is written beside its place, synced, and renamed into it.
// Errors: RESOURCE_EXHAUSTED with DISK_FULL for ENOSPC and EDQUOT, UNAVAILABLE for other failures
// of the system, NOT_FOUND where a file to read is missing. Functions are thread-safe; two callers
// must not write the same path.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"
#include "tasuki/v1/models.pb.h"

namespace tasuki {

// The status of a system call on `path` that failed with `error` (an errno value); `doing` is what
// was tried, such as "write".
absl::Status SystemError(int error, absl::string_view doing, const std::string& path);

// The whole file. NOT_FOUND; LIMIT_EXCEEDED (INVALID_ARGUMENT) above `max_bytes`.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes = size_t{1} << 30);

// Writes `path` and syncs it; not atomic: for files in a directory that is not published yet.
absl::Status WriteFile(const std::string& path, absl::string_view bytes);

// Replaces `path` atomically: writes `path`.tmp, syncs, renames, syncs the directory.
absl::Status ReplaceFile(const std::string& path, absl::string_view bytes);

// Renames a file that FileWriter::Close has synced to `final_path`, in the place of what may be
// there, and syncs the parent.
absl::Status PublishFile(const std::string& aside, const std::string& final_path);

// Syncs every file below `aside` and the directories, renames it to `final_path`, which must not
// exist (ALREADY_EXISTS), and syncs the parent.
absl::Status PublishDirectory(const std::string& aside, const std::string& final_path);

// The same in the place of what may be there: the two are exchanged, so that at every moment there
// is the old directory or the new one; then the old one is removed. On a volume that cannot
// exchange the old one goes first.
absl::Status ReplaceDirectory(const std::string& aside, const std::string& final_path);

// Appends to a new file that Close() syncs. A writer that goes away unclosed leaves a file that
// must not be trusted. After an error only destruction is left. Not thread-safe.
class FileWriter {
 public:
  static absl::StatusOr<FileWriter> Create(const std::string& path);
  ~FileWriter();
  FileWriter(FileWriter&& other) noexcept;
  FileWriter& operator=(FileWriter&& other) noexcept;
  absl::Status Append(absl::string_view bytes);
  // Syncs and closes. REQUIRED before the file is trusted.
  absl::Status Close();

 private:
  FileWriter(int fd, std::string path);
  absl::Status Flush();

  int fd_ = -1;
  std::string path_;
  std::string buffer_;
};

// Makes a directory with its parents; syncs where a new one was entered.
absl::Status MakeDirectories(const std::string& path);
// Removes a file or a tree; OK if it is not there.
absl::Status RemoveAll(const std::string& path);
// Names in a directory, sorted; NOT_FOUND.
absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path);
// Bytes free for this process on the volume that holds `path`.
absl::StatusOr<int64_t> FreeBytes(const std::string& path);

// A message as protobuf JSON (proto field names, indented), written by ReplaceFile. Reading refuses
// unknown fields: DATA_LOSS, FILE_CHANGED; NOT_FOUND.
absl::Status WriteJson(const std::string& path, const google::protobuf::Message& message);
absl::Status ReadJson(const std::string& path, google::protobuf::Message& message);

// ReadJson of a message with an int32 `format_version`. A higher one than `newest` is DATA_LOSS,
// FILE_CHANGED, naming both, whatever fields the newer format has; `message` then has what is known
// of it. So is a file without the number.
absl::Status ReadVersionedJson(const std::string& path, int newest,
                               google::protobuf::Message& message);

// Name, size and hash of each of `names`, paths in `directory`.
absl::StatusOr<std::vector<v1::ModelFile>> DescribeFiles(const std::string& directory,
                                                         const std::vector<std::string>& names);
// Checks that every file is in `directory` with its size and hash; DATA_LOSS, FILE_CHANGED, naming
// the first that is not.
absl::Status CheckFiles(const std::string& directory, const std::vector<v1::ModelFile>& files);

}  // namespace tasuki
