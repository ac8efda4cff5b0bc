#include "server/serving/model_transfer.h"

#include <stdlib.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/files/model_directory.h"
#include "model/recipe/version_name.h"

namespace tasuki {
namespace {

constexpr size_t kPieceBytes = 1 << 20;
constexpr int kMaxFiles = 1000;
constexpr size_t kMaxRequestIdBytes = 128;
// Kept free for the store and for jobs, as uploads of datasets do.
constexpr int64_t kReservedBytes = int64_t{64} << 20;

bool IsSha256(absl::string_view text) {
  return text.size() == 64 && std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
         });
}

absl::Status CheckHeader(const v1::ImportModelVersionHeader& header) {
  Faults faults;
  if (!IsModelName(header.model())) {
    faults.Add("header.model", absl::StrCat("\"", header.model(),
                                            "\" is not of the form models/{model} with an id "
                                            "[a-z]([a-z0-9-]{0,61}[a-z0-9])?"));
  }
  if (header.request_id().size() > kMaxRequestIdBytes) {
    faults.Add("header.request_id",
               absl::StrCat("has ", header.request_id().size(), " bytes; ", kMaxRequestIdBytes,
                            " are allowed, a UUID has 36"));
  }
  if (header.files_size() > kMaxFiles) {
    faults.Add("header.files", absl::StrCat(header.files_size(), " files; at most ", kMaxFiles));
    return faults.ToStatus();
  }
  std::set<std::string> names;
  bool weights = false;
  for (int i = 0; i < header.files_size(); ++i) {
    const v1::ModelFile& file = header.files(i);
    const std::string field = absl::StrCat("header.files[", i, "]");
    if (!IsModelFileName(file.name())) {
      faults.Add(field + ".name", absl::StrCat("\"", file.name(),
                                               "\" is not a file of a T5 directory; weights are "
                                               "accepted as safetensors only (python3 -m "
                                               "tasuki.convert writes them from a pickle)"));
    } else if (!names.insert(file.name()).second) {
      faults.Add(field + ".name", absl::StrCat(file.name(), " is listed twice"));
    }
    weights |= absl::EndsWith(file.name(), ".safetensors");
    if (file.size_bytes() < 0) faults.Add(field + ".size_bytes", "is negative");
    if (!IsSha256(file.sha256())) {
      faults.Add(field + ".sha256", "is not a SHA-256 in lower-case hex");
    }
  }
  for (const char* name : {"config.json", "spiece.model"}) {
    if (!names.contains(name)) faults.Add("header.files", absl::StrCat(name, " is missing"));
  }
  if (!weights) faults.Add("header.files", "the weights (model.safetensors) are missing");
  return faults.ToStatus();
}

std::string DigestOf(const v1::ImportModelVersionHeader& header) {
  Sha256 hash;
  hash.Update(header.model());
  for (const auto& file : header.files()) {
    hash.Update(absl::StrCat("\n", file.name(), " ", file.size_bytes(), " ", file.sha256()));
  }
  return hash.Finish();
}

absl::Status Corrupt(absl::string_view message) {
  return MakeError(absl::StatusCode::kDataLoss, v1::UPLOAD_CORRUPT, message);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelUpload>> ModelUpload::Begin(
    const v1::ImportModelVersionHeader& header, const DataDirectory& data) {
  if (absl::Status status = CheckHeader(header); !status.ok()) return status;
  const absl::StatusOr<int64_t> free = FreeBytes(data.aside());
  if (!free.ok()) return free.status();
  int64_t left = *free - kReservedBytes;
  for (const auto& file : header.files()) {
    if (file.size_bytes() > left) {
      return MakeError(absl::StatusCode::kResourceExhausted, v1::DISK_FULL,
                       absl::StrCat("The model's files do not fit: the data volume has ", *free,
                                    " bytes free, of which ", kReservedBytes,
                                    " are kept for jobs. Delete versions or jobs that are not "
                                    "needed."));
    }
    left -= file.size_bytes();
  }
  std::string directory = data.aside() + "/import-XXXXXX";
  if (mkdtemp(directory.data()) == nullptr) return SystemError(errno, "write", data.aside());
  std::unique_ptr<ModelUpload> upload(new ModelUpload(header, std::move(directory)));
  if (absl::Status status = upload->Advance(); !status.ok()) return status;
  return upload;
}

ModelUpload::ModelUpload(const v1::ImportModelVersionHeader& header, std::string directory)
    : files_(header.files().begin(), header.files().end()),
      directory_(std::move(directory)),
      digest_(DigestOf(header)) {}

ModelUpload::~ModelUpload() {
  writer_.reset();
  // What cannot be removed now is removed when the server starts next.
  RemoveAll(directory_).IgnoreError();
}

absl::Status ModelUpload::Advance() {
  while (current_ < files_.size()) {
    const v1::ModelFile& file = files_[current_];
    if (!writer_.has_value()) {
      absl::StatusOr<FileWriter> writer = FileWriter::Create(directory_ + "/" + file.name());
      if (!writer.ok()) return writer.status();
      writer_ = *std::move(writer);
      hash_ = Sha256();
      received_ = 0;
    }
    if (received_ < file.size_bytes()) return absl::OkStatus();
    if (absl::Status status = writer_->Close(); !status.ok()) return status;
    writer_.reset();
    if (const std::string hash = hash_.Finish(); hash != file.sha256()) {
      return Corrupt(absl::StrCat(file.name(), " arrived with SHA-256 ", hash, " instead of ",
                                  file.sha256(), "; send it again."));
    }
    ++current_;
  }
  return absl::OkStatus();
}

absl::Status ModelUpload::Append(absl::string_view bytes) {
  while (!bytes.empty()) {
    if (current_ == files_.size()) return Corrupt("More bytes came than the header announced.");
    const size_t wanted = files_[current_].size_bytes() - received_;
    const absl::string_view piece = bytes.substr(0, wanted);
    if (absl::Status status = writer_->Append(piece); !status.ok()) return status;
    hash_.Update(piece);
    received_ += static_cast<int64_t>(piece.size());
    bytes.remove_prefix(piece.size());
    if (absl::Status status = Advance(); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status ModelUpload::Finish() {
  if (current_ == files_.size()) return absl::OkStatus();
  return Corrupt(absl::StrCat("The upload ended at byte ", received_, " of ",
                              files_[current_].size_bytes(), " of ", files_[current_].name(), "."));
}

absl::Status ReadModelFiles(const std::string& directory, const std::vector<v1::ModelFile>& files,
                            const std::function<bool(const v1::ModelFile&)>& begin,
                            const std::function<bool(std::string bytes)>& bytes) {
  for (const v1::ModelFile& file : files) {
    std::ifstream stream(directory + "/" + file.name(), std::ios::binary);
    if (!begin(file)) return absl::CancelledError("The call was cancelled.");
    for (int64_t left = file.size_bytes(); left > 0;) {
      std::string piece(std::min<size_t>(left, kPieceBytes), '\0');
      if (!stream.read(piece.data(), static_cast<std::streamsize>(piece.size()))) {
        return MakeError(absl::StatusCode::kDataLoss, v1::FILE_CHANGED,
                         absl::StrCat(file.name(),
                                      " is missing or shorter than it was when the "
                                      "version was published."));
      }
      left -= static_cast<int64_t>(piece.size());
      if (!bytes(std::move(piece))) return absl::CancelledError("The call was cancelled.");
    }
  }
  return absl::OkStatus();
}

}  // namespace tasuki
