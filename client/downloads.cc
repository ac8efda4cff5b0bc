// What the server streams: ExportModelVersion, DownloadPredictions and WatchTrainingJob.
#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/connection.h"
#include "client/sha256.h"

namespace tasuki {
namespace {

namespace fs = std::filesystem;

// A directory in the making: files arrive one after the other, and Publish renames the whole. What
// was not published is removed.
class DirectoryBeside {
 public:
  explicit DirectoryBeside(const fs::path& target)
      : target_(target), path_(target.string() + ".partial-" + NewRequestId()) {}
  ~DirectoryBeside() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }

  absl::Status Create() {
    std::error_code error;
    fs::create_directories(path_, error);
    if (error) return Fault(path_, error.message());
    return absl::OkStatus();
  }

  absl::Status Begin(const v1::ModelFile& file) {
    if (absl::Status status = End(); !status.ok()) return status;
    const fs::path place = path_ / file.name();
    if (!IsWithin(file.name())) {
      return absl::DataLossError(absl::StrCat("the server sent a file named \"", file.name(),
                                              "\", which is no file name"));
    }
    declared_ = file;
    received_bytes_ = 0;
    hash_ = std::make_unique<client::Sha256>();
    std::error_code error;
    fs::create_directories(place.parent_path(), error);
    output_.open(place, std::ios::binary | std::ios::trunc);
    if (!output_) return Fault(place, "cannot be written");
    return absl::OkStatus();
  }

  absl::Status Append(absl::string_view bytes) {
    if (!declared_) return absl::DataLossError("the server sent bytes before naming their file");
    hash_->Update(bytes);
    received_bytes_ += static_cast<int64_t>(bytes.size());
    if (!output_.write(bytes.data(), static_cast<std::streamsize>(bytes.size()))) {
      return Fault(path_ / declared_->name(), "cannot be written; is the disk full?");
    }
    return absl::OkStatus();
  }

  absl::Status Publish() {
    if (absl::Status status = End(); !status.ok()) return status;
    std::error_code error;
    fs::rename(path_, target_, error);
    if (error) return Fault(target_, error.message());
    return absl::OkStatus();
  }

 private:
  // Whether it is the path of a file in a directory or below, without detours.
  static bool IsWithin(const std::string& name) {
    const std::vector<absl::string_view> parts = absl::StrSplit(name, '/');
    return std::none_of(parts.begin(), parts.end(), [](absl::string_view part) {
      return part.empty() || part == "." || part == "..";
    });
  }
  static absl::Status Fault(const fs::path& path, absl::string_view why) {
    return absl::FailedPreconditionError(absl::StrCat(path.string(), ": ", why));
  }

  // Closes the file that was open and holds it against what the server declared.
  absl::Status End() {
    if (!declared_) return absl::OkStatus();
    output_.close();
    const v1::ModelFile file = *std::exchange(declared_, std::nullopt);
    if (!output_) return Fault(path_ / file.name(), "cannot be written; is the disk full?");
    if (received_bytes_ != file.size_bytes() || hash_->Finish() != file.sha256()) {
      return absl::DataLossError(absl::StrCat(
          file.name(), ": the ", received_bytes_, " bytes received are not the ", file.size_bytes(),
          " bytes that the server declared; nothing was kept, try again"));
    }
    return absl::OkStatus();
  }

  const fs::path target_;
  const fs::path path_;
  std::optional<v1::ModelFile> declared_;  // the file that is open
  int64_t received_bytes_ = 0;
  std::unique_ptr<client::Sha256> hash_;
  std::ofstream output_;
};

}  // namespace

absl::Status Client::ExportModelVersion(const std::string& name, const std::string& directory,
                                        const TransferProgress& progress) {
  return Export(name, /*adapter=*/false, directory, progress);
}

absl::Status Client::ExportAdapter(const std::string& name, const std::string& directory,
                                   const TransferProgress& progress) {
  return Export(name, /*adapter=*/true, directory, progress);
}

absl::Status Client::Export(const std::string& name, bool adapter, const std::string& directory,
                            const TransferProgress& progress) {
  const fs::path target = (fs::absolute(directory) / "").lexically_normal().parent_path();
  std::error_code error;
  if (fs::exists(target, error) && !fs::is_empty(target, error)) {
    return absl::AlreadyExistsError(
        absl::StrCat(directory, " is there and not empty; name a new directory"));
  }
  const auto version = GetModelVersion(name);
  if (!version.ok()) return version.status();
  int64_t total = 0;
  for (const v1::ModelFile& file : version->files()) {
    if (!adapter || absl::StartsWith(file.name(), "adapter/")) total += file.size_bytes();
  }

  v1::ExportModelVersionRequest request;
  request.set_name(name);
  request.set_adapter(adapter);
  absl::Status fault;  // on this side; an attempt that met one is not repeated
  const absl::Status status = connection_->Call(
      connection_->options.transfer_timeout, [&](grpc::ClientContext& context) -> grpc::Status {
        DirectoryBeside beside(target);
        fault = beside.Create();
        const auto reader = connection_->models->ExportModelVersion(&context, request);
        v1::ExportModelVersionResponse part;
        int64_t received = 0;
        while (fault.ok() && reader->Read(&part)) {
          fault = part.has_file() ? beside.Begin(part.file()) : beside.Append(part.chunk());
          received += static_cast<int64_t>(part.chunk().size());
          if (progress) progress(received, total);
        }
        if (!fault.ok()) context.TryCancel();
        const grpc::Status end = reader->Finish();
        if (!fault.ok()) return {grpc::StatusCode::ABORTED, ""};  // not to be made again
        if (end.ok()) fault = beside.Publish();
        return end;
      });
  return fault.ok() ? status : fault;
}

absl::Status Client::DownloadPredictions(const std::string& name, const std::string& file,
                                         const TransferProgress& progress) {
  v1::DownloadPredictionsRequest request;
  request.set_name(name);
  const std::string beside = absl::StrCat(file, ".partial-", NewRequestId());
  absl::Status fault;  // on this side; an attempt that met one is not repeated
  int64_t received = 0, total = 0;
  absl::Status status = connection_->Call(
      connection_->options.transfer_timeout, [&](grpc::ClientContext& context) -> grpc::Status {
        std::ofstream output(beside, std::ios::binary | std::ios::trunc);
        const auto reader = connection_->training->DownloadPredictions(&context, request);
        v1::DownloadPredictionsResponse part;
        received = total = 0;
        while (output && reader->Read(&part)) {
          output << part.chunk();
          received += static_cast<int64_t>(part.chunk().size());
          total = part.size_bytes();
          if (progress) progress(received, total);
        }
        output.close();
        if (!output) {
          fault = absl::FailedPreconditionError(absl::StrCat(
              file, " cannot be written; is there such a folder, and is the disk full?"));
          context.TryCancel();
        }
        const grpc::Status end = reader->Finish();
        // ABORTED is not tried again.
        return fault.ok() ? end : grpc::Status(grpc::StatusCode::ABORTED, "");
      });
  if (!fault.ok()) status = fault;
  if (status.ok() && received != total) {
    status = absl::DataLossError(absl::StrCat("the server sent ", received, " bytes of ", total,
                                              "; nothing was kept, try again"));
  }
  std::error_code error;
  if (status.ok()) {
    fs::rename(beside, file, error);
    if (error) status = absl::FailedPreconditionError(absl::StrCat(file, ": ", error.message()));
  }
  if (!status.ok()) fs::remove(beside, error);
  return status;
}

absl::Status Client::WatchTrainingJob(
    const std::string& name, int64_t from_sequence,
    const std::function<void(const v1::TrainingJobEvent&)>& on_event,
    const std::function<void(const absl::Status&)>& on_lost) {
  v1::WatchTrainingJobRequest request;
  request.set_name(name);
  request.set_from_sequence(std::max<int64_t>(from_sequence, 1));
  absl::Duration backoff = connection_->options.first_backoff;
  absl::Time lost_since = absl::InfiniteFuture();
  while (true) {
    absl::Status gap;
    const absl::Status status =
        connection_->Try(absl::InfiniteFuture(), [&](grpc::ClientContext& context) -> grpc::Status {
          const auto reader = connection_->training->WatchTrainingJob(&context, request);
          v1::WatchTrainingJobResponse response;
          while (gap.ok() && reader->Read(&response)) {
            const int64_t sequence = response.event().sequence();
            if (sequence < request.from_sequence()) continue;
            if (sequence > request.from_sequence()) {
              gap = absl::DataLossError(absl::StrCat("the server sent event ", sequence, " of ",
                                                     name, " where ", request.from_sequence(),
                                                     " was to come"));
              context.TryCancel();
              break;
            }
            request.set_from_sequence(sequence + 1);
            lost_since = absl::InfiniteFuture();
            backoff = connection_->options.first_backoff;
            on_event(response.event());
          }
          return reader->Finish();
        });
    if (!gap.ok()) return gap;
    if (!absl::IsUnavailable(status)) return status;
    lost_since = std::min(lost_since, absl::Now());
    if (absl::Now() - lost_since >= connection_->options.patience) return status;
    if (on_lost) on_lost(status);
    if (!connection_->Wait(backoff, absl::InfiniteFuture())) {
      return absl::CancelledError("the call was stopped");
    }
    backoff = std::min(backoff * 2, connection_->options.max_backoff);
  }
}

}  // namespace tasuki
