#include "model/files/durable.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "google/protobuf/util/json_util.h"
#include "model/errors/errors.h"
#include "model/files/sha256.h"

namespace tasuki {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBufferBytes = size_t{64} << 10;
constexpr size_t kMaxJsonBytes = size_t{64} << 20;

std::string ParentOf(const std::string& path) {
  const std::string parent = fs::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

absl::Status WriteAll(int fd, absl::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno != EINTR) return SystemError(errno, "write", path);
    if (written > 0) bytes.remove_prefix(written);
  }
  return absl::OkStatus();
}

// A file or a directory: both are synced through a descriptor.
absl::Status SyncPath(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return SystemError(errno, "open", path);
  const int error = fsync(fd) == 0 ? 0 : errno;
  close(fd);
  return error == 0 ? absl::OkStatus() : SystemError(error, "sync", path);
}

// Every file below `directory`, and the directories.
absl::Status SyncTree(const std::string& directory) {
  std::error_code error;
  fs::recursive_directory_iterator entry(directory, error);
  for (; !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    if (absl::Status status = SyncPath(entry->path().string()); !status.ok()) return status;
  }
  if (error) return SystemError(error.value(), "list", directory);
  return SyncPath(directory);
}

absl::Status Rename(const std::string& from, const std::string& to) {
  if (rename(from.c_str(), to.c_str()) != 0) return SystemError(errno, "rename to", to);
  return SyncPath(ParentOf(to));
}

absl::Status Changed(absl::string_view message) {
  return MakeError(absl::StatusCode::kDataLoss, v1::FILE_CHANGED, message);
}

// Whether it is the path of a file in a directory or below, without detours.
bool IsWithin(const std::string& name) {
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '/');
  return std::none_of(parts.begin(), parts.end(), [](absl::string_view part) {
    return part.empty() || part == "." || part == "..";
  });
}

}  // namespace

absl::Status SystemError(int error, absl::string_view doing, const std::string& path) {
  const std::string what = absl::StrCat("cannot ", doing, " ", path, ": ", std::strerror(error));
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return MakeError(absl::StatusCode::kResourceExhausted, v1::DISK_FULL,
                       absl::StrCat(what, "; free space on that volume and try again"));
    case ENOENT:
      return MakeError(absl::StatusCode::kNotFound, v1::RESOURCE_NOT_FOUND, what);
    default:
      return MakeError(absl::StatusCode::kUnavailable, v1::STORE_UNAVAILABLE, what);
  }
}

absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes) {
  // O_NONBLOCK: opening a FIFO must not wait for its writer.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return SystemError(errno, "open", path);
  std::string bytes;
  absl::Status status;
  struct stat about {};
  if (fstat(fd, &about) != 0) {
    status = SystemError(errno, "read", path);
  } else if (!S_ISREG(about.st_mode)) {
    status = SystemError(S_ISDIR(about.st_mode) ? EISDIR : EINVAL, "read", path);
  } else if (static_cast<size_t>(about.st_size) > max_bytes) {
    status =
        MakeError(absl::StatusCode::kInvalidArgument, v1::LIMIT_EXCEEDED,
                  absl::StrCat(path, " has ", about.st_size, " bytes; the limit is ", max_bytes));
  } else {
    bytes.resize(about.st_size);
  }
  size_t have = 0;
  while (status.ok() && have < bytes.size()) {
    const ssize_t got = read(fd, bytes.data() + have, bytes.size() - have);
    if (got < 0 && errno != EINTR) status = SystemError(errno, "read", path);
    if (got == 0) bytes.resize(have);
    if (got > 0) have += got;
  }
  close(fd);
  if (!status.ok()) return status;
  return bytes;
}

absl::Status WriteFile(const std::string& path, absl::string_view bytes) {
  absl::StatusOr<FileWriter> writer = FileWriter::Create(path);
  if (!writer.ok()) return writer.status();
  if (absl::Status status = writer->Append(bytes); !status.ok()) return status;
  return writer->Close();
}

absl::Status ReplaceFile(const std::string& path, absl::string_view bytes) {
  const std::string aside = path + ".tmp";
  absl::Status status = WriteFile(aside, bytes);
  if (status.ok()) status = Rename(aside, path);
  if (!status.ok()) unlink(aside.c_str());
  return status;
}

absl::Status PublishFile(const std::string& aside, const std::string& final_path) {
  return Rename(aside, final_path);
}

absl::Status PublishDirectory(const std::string& aside, const std::string& final_path) {
  std::error_code error;
  if (fs::exists(fs::symlink_status(final_path, error))) {
    return MakeError(absl::StatusCode::kAlreadyExists, v1::RESOURCE_EXISTS,
                     absl::StrCat(final_path, " exists already"));
  }
  if (absl::Status status = SyncTree(aside); !status.ok()) return status;
  return Rename(aside, final_path);
}

absl::Status ReplaceDirectory(const std::string& aside, const std::string& final_path) {
  if (absl::Status status = SyncTree(aside); !status.ok()) return status;
  if (renameat2(AT_FDCWD, aside.c_str(), AT_FDCWD, final_path.c_str(), RENAME_EXCHANGE) == 0) {
    if (absl::Status status = SyncPath(ParentOf(final_path)); !status.ok()) return status;
    return RemoveAll(aside);  // the old one now
  }
  if (errno != ENOENT && errno != EINVAL) return SystemError(errno, "rename to", final_path);
  if (absl::Status status = RemoveAll(final_path); !status.ok()) return status;
  return Rename(aside, final_path);
}

FileWriter::FileWriter(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}

absl::StatusOr<FileWriter> FileWriter::Create(const std::string& path) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return SystemError(errno, "create", path);
  return FileWriter(fd, path);
}

FileWriter::~FileWriter() {
  if (fd_ >= 0) close(fd_);
}

FileWriter::FileWriter(FileWriter&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      path_(std::move(other.path_)),
      buffer_(std::move(other.buffer_)) {}

FileWriter& FileWriter::operator=(FileWriter&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  std::swap(buffer_, other.buffer_);
  return *this;
}

absl::Status FileWriter::Append(absl::string_view bytes) {
  if (buffer_.size() + bytes.size() < kBufferBytes) {
    buffer_.append(bytes.data(), bytes.size());
    return absl::OkStatus();
  }
  if (absl::Status status = Flush(); !status.ok()) return status;
  return WriteAll(fd_, bytes, path_);
}

absl::Status FileWriter::Flush() {
  const std::string bytes = std::exchange(buffer_, {});
  return WriteAll(fd_, bytes, path_);
}

absl::Status FileWriter::Close() {
  absl::Status status = Flush();
  // A failed fsync is never tried again: the kernel may have dropped the pages already.
  if (status.ok() && fsync(fd_) != 0) status = SystemError(errno, "sync", path_);
  if (close(std::exchange(fd_, -1)) != 0 && status.ok()) {
    status = SystemError(errno, "close", path_);
  }
  return status;
}

absl::Status MakeDirectories(const std::string& path) {
  std::error_code error;
  std::vector<std::string> entered;  // the parents of what is new
  for (fs::path part = path; !part.empty() && !fs::exists(part, error);) {
    entered.push_back(ParentOf(part.string()));
    part = part.parent_path();
  }
  fs::create_directories(path, error);
  if (error) return SystemError(error.value(), "make", path);
  for (const std::string& parent : entered) {
    if (absl::Status status = SyncPath(parent); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status RemoveAll(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  return error ? SystemError(error.value(), "remove", path) : absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path) {
  std::error_code error;
  std::vector<std::string> names;
  fs::directory_iterator entry(path, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  if (error) return SystemError(error.value(), "list", path);
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<int64_t> FreeBytes(const std::string& path) {
  struct statvfs volume {};
  if (statvfs(path.c_str(), &volume) != 0) return SystemError(errno, "look at", path);
  return static_cast<int64_t>(volume.f_bavail) * static_cast<int64_t>(volume.f_frsize);
}

absl::Status WriteJson(const std::string& path, const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.add_whitespace = true;
  std::string json;
  const auto printed = google::protobuf::util::MessageToJsonString(message, &json, options);
  if (!printed.ok()) {
    return MakeError(absl::StatusCode::kInternal, v1::INTERNAL_ERROR,
                     absl::StrCat("cannot write ", path, ": ", printed.message().ToString()));
  }
  return ReplaceFile(path, json);
}

absl::Status ReadJson(const std::string& path, google::protobuf::Message& message) {
  const absl::StatusOr<std::string> json = ReadFile(path, kMaxJsonBytes);
  if (!json.ok()) return json.status();
  const auto parsed = google::protobuf::util::JsonStringToMessage(*json, &message);
  if (parsed.ok()) return absl::OkStatus();
  const std::string cause = parsed.message().ToString();
  // The first line: what follows points into the text.
  return Changed(absl::StrCat(path, " is not the JSON of ", message.GetTypeName(), ": ",
                              absl::StripSuffix(cause.substr(0, cause.find('\n')), ".")));
}

absl::Status ReadVersionedJson(const std::string& path, int newest,
                               google::protobuf::Message& message) {
  const absl::StatusOr<std::string> json = ReadFile(path, kMaxJsonBytes);
  if (!json.ok()) return json.status();
  const auto version = [&message] {
    return message.GetReflection()->GetInt32(
        message, message.GetDescriptor()->FindFieldByName("format_version"));
  };
  // A newer format may have fields that this program does not know: its number is looked at first.
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;
  const auto parsed = google::protobuf::util::JsonStringToMessage(*json, &message, options);
  if (parsed.ok() && version() > newest) {
    return Changed(absl::StrCat(path, " has format version ", version(),
                                "; this program reads up to ", newest, ": use a newer one"));
  }
  if (absl::Status status = ReadJson(path, message); !status.ok()) return status;
  return version() > 0 ? absl::OkStatus() : Changed(path + " has no format_version");
}

absl::StatusOr<std::vector<v1::ModelFile>> DescribeFiles(const std::string& directory,
                                                         const std::vector<std::string>& names) {
  std::vector<v1::ModelFile> files;
  for (const std::string& name : names) {
    const std::string path = absl::StrCat(directory, "/", name);
    absl::StatusOr<std::string> hash = Sha256OfFile(path);
    if (!hash.ok()) return hash.status();
    std::error_code error;
    const auto size = fs::file_size(path, error);
    if (error) return SystemError(error.value(), "look at", path);
    v1::ModelFile& file = files.emplace_back();
    file.set_name(name);
    file.set_size_bytes(static_cast<int64_t>(size));
    file.set_sha256(*std::move(hash));
  }
  return files;
}

absl::Status CheckFiles(const std::string& directory, const std::vector<v1::ModelFile>& files) {
  for (const v1::ModelFile& file : files) {
    const std::string& name = file.name();
    const std::string path = absl::StrCat(directory, "/", name);
    if (!IsWithin(name)) {
      return Changed(absl::StrCat(Quote(name), " in the list of ", directory, " is no file name"));
    }
    std::error_code error;
    const auto size = fs::file_size(path, error);
    if (error) return Changed(absl::StrCat(path, " is missing: ", error.message()));
    if (static_cast<int64_t>(size) != file.size_bytes()) {
      return Changed(absl::StrCat(path, " has ", size, " bytes instead of ", file.size_bytes()));
    }
    const absl::StatusOr<std::string> hash = Sha256OfFile(path);
    if (!hash.ok()) return hash.status();
    if (*hash != file.sha256()) {
      return Changed(absl::StrCat(path, " has SHA-256 ", *hash, " instead of ", file.sha256()));
    }
  }
  return absl::OkStatus();
}

}  // namespace tasuki
