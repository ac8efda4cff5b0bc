// What is streamed to the server: UploadDataset and ImportModelVersion.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <regex>
#include <sstream>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/connection.h"
#include "client/sha256.h"

namespace tasuki {
namespace {

using client::kChunkBytes;

// Hands the bytes of `input` to `use` piece by piece, until `use` answers false.
template <typename Use>
absl::Status ReadPieces(std::istream& input, absl::string_view what, Use use) {
  std::string piece(kChunkBytes, '\0');
  while (input) {
    input.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    const auto size = static_cast<size_t>(input.gcount());
    if (size > 0 && !use(absl::string_view(piece.data(), size))) return absl::OkStatus();
  }
  if (input.bad()) return absl::DataLossError(absl::StrCat("reading ", what, " failed"));
  return absl::OkStatus();
}

struct Digest {
  std::string sha256;
  int64_t size_bytes = 0;
};

absl::StatusOr<Digest> DigestOf(const UploadSource& source, absl::string_view what) {
  const auto input = source.Open();
  if (!input.ok()) return input.status();
  client::Sha256 hash;
  Digest digest;
  const absl::Status status = ReadPieces(**input, what, [&](absl::string_view piece) {
    hash.Update(piece);
    digest.size_bytes += static_cast<int64_t>(piece.size());
    return true;
  });
  if (!status.ok()) return status;
  digest.sha256 = hash.Finish();
  return digest;
}

// Writes the bytes of `input` as chunks. A refused write is not an error here: the stream's final
// status says why.
template <typename Request>
absl::Status WriteChunks(std::istream& input, absl::string_view what,
                         grpc::ClientWriter<Request>& writer, int64_t total,
                         const TransferProgress& progress, int64_t& sent) {
  return ReadPieces(input, what, [&](absl::string_view piece) {
    Request request;
    request.set_chunk(piece.data(), piece.size());
    if (!writer.Write(request)) return false;
    sent += static_cast<int64_t>(piece.size());
    if (progress) progress(sent, total);
    return true;
  });
}

// Ends a stream: our own fault (a file that can no longer be read) goes before what the server says
// about the stream that we broke off.
template <typename Request>
grpc::Status EndStream(grpc::ClientWriter<Request>& writer, grpc::ClientContext& context,
                       const absl::Status& fault) {
  if (!fault.ok()) {
    context.TryCancel();
    writer.Finish();
    return {static_cast<grpc::StatusCode>(fault.code()), std::string(fault.message())};
  }
  writer.WritesDone();
  return writer.Finish();
}

// Sends `source` by `begin`, which makes a writer of Requests that ends in `answer`.
template <typename Request, typename Answer, typename Connection, typename Begin>
absl::StatusOr<Answer> SendFile(const Connection& connection, const UploadSource& source,
                                v1::UploadDatasetHeader header, const TransferProgress& progress,
                                Begin begin) {
  int64_t total = -1;
  if (source.repeatable()) {
    const auto digest = DigestOf(source, "the source");
    if (!digest.ok()) return digest.status();
    header.set_sha256(digest->sha256);
    total = digest->size_bytes;
  }
  Request first;
  *first.mutable_header() = std::move(header);
  Answer answer;
  const auto send = [&](grpc::ClientContext& context) -> grpc::Status {
    answer.Clear();
    const std::unique_ptr<grpc::ClientWriter<Request>> writer = begin(context, answer);
    int64_t sent = 0;
    absl::Status fault;
    if (writer->Write(first)) {
      const auto input = source.Open();
      fault = input.ok() ? WriteChunks(**input, "the source", *writer, total, progress, sent)
                         : input.status();
    }
    return EndStream(*writer, context, fault);
  };
  const absl::Status status =
      connection.Call(connection.options.transfer_timeout, send, source.repeatable());
  if (!status.ok()) return status;
  return answer;
}

// The names that a server takes (ModelFile.name).
bool IsModelFile(const std::string& name) {
  static const std::regex pattern(
      "(config|generation_config|tokenizer_config|special_tokens_map|tokenizer|added_tokens|tasuki|"
      "model\\.safetensors\\.index)\\.json|spiece\\.model|model(-\\d{5}-of-\\d{5})?\\.safetensors");
  return std::regex_match(name, pattern);
}

absl::StatusOr<std::vector<v1::ModelFile>> ModelFilesOf(const std::string& directory) {
  std::vector<v1::ModelFile> files;
  bool weights = false, config = false, tokenizer = false, pickle = false, adapter = false;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename();
    pickle |= absl::StartsWith(name, "pytorch_model");
    adapter |= name == "adapter_config.json";
    if (!IsModelFile(name) || !entry->is_regular_file()) continue;
    weights |= absl::EndsWith(name, ".safetensors");
    config |= name == "config.json";
    tokenizer |= name == "spiece.model";
    files.emplace_back().set_name(name);
  }
  if (error) {
    return absl::NotFoundError(absl::StrCat("cannot read ", directory, ": ", error.message()));
  }
  if (adapter) {
    return absl::InvalidArgumentError(absl::StrCat(
        directory, " has an adapter, which an import does not take: merge it into its base first ",
        "(peft: PeftModel.from_pretrained(...).merge_and_unload().save_pretrained(...))"));
  }
  if (pickle && !weights) {
    return absl::InvalidArgumentError(absl::StrCat(
        directory,
        " has its weights in a pickle (pytorch_model.bin), which Tasuki does not open; `",
        "python3 -m tasuki.convert ", directory, "` writes them as model.safetensors ",
        "(the Python package in client/python, with [convert])"));
  }
  const char* missing = !config      ? "config.json"
                        : !weights   ? "model.safetensors (save_pretrained(..., "
                                       "safe_serialization=True) writes it)"
                        : !tokenizer ? "spiece.model"
                                     : nullptr;
  if (missing != nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        directory, " is not a Hugging Face T5 directory that can be imported: it has no ",
        missing));
  }
  std::sort(files.begin(), files.end(),
            [](const auto& a, const auto& b) { return a.name() < b.name(); });
  for (v1::ModelFile& file : files) {
    const std::string path = directory + "/" + file.name();
    const auto digest = DigestOf(UploadSource::File(path), path);
    if (!digest.ok()) return digest.status();
    file.set_sha256(digest->sha256);
    file.set_size_bytes(digest->size_bytes);
  }
  return files;
}

}  // namespace

UploadSource UploadSource::File(std::string path) {
  UploadSource source;
  source.path_ = std::move(path);
  return source;
}

UploadSource UploadSource::Bytes(std::string bytes) {
  UploadSource source;
  source.bytes_ = std::make_shared<const std::string>(std::move(bytes));
  return source;
}

UploadSource UploadSource::Stream(std::istream& stream) {
  UploadSource source;
  source.stream_ = &stream;
  return source;
}

absl::StatusOr<std::shared_ptr<std::istream>> UploadSource::Open() const {
  if (stream_ != nullptr) {
    return std::shared_ptr<std::istream>(stream_, [](std::istream*) {});
  }
  if (bytes_ != nullptr) return std::make_shared<std::istringstream>(*bytes_);
  if (std::filesystem::is_directory(path_)) {
    return absl::InvalidArgumentError(absl::StrCat(path_, " is a directory, not a file"));
  }
  std::error_code error;  // a pipe would block, and is empty when it is read again
  if (std::filesystem::exists(path_, error) && !std::filesystem::is_regular_file(path_, error)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, " is not a regular file; send what comes from a pipe as -"));
  }
  auto file = std::make_shared<std::ifstream>(path_, std::ios::binary);
  if (!*file) {
    const int cause = errno;
    return absl::ErrnoToStatus(cause, absl::StrCat("cannot read ", path_));
  }
  return file;
}

absl::StatusOr<v1::Dataset> Client::UploadDataset(const UploadSource& source,
                                                  v1::UploadDatasetHeader header,
                                                  const TransferProgress& progress) {
  return SendFile<v1::UploadDatasetRequest, v1::Dataset>(
      *connection_, source, std::move(header), progress,
      [this](grpc::ClientContext& context, v1::Dataset& answer) {
        return connection_->datasets->UploadDataset(&context, &answer);
      });
}

absl::StatusOr<v1::CheckDatasetResponse> Client::CheckDataset(const UploadSource& source,
                                                              v1::UploadDatasetHeader header,
                                                              const TransferProgress& progress) {
  return SendFile<v1::CheckDatasetRequest, v1::CheckDatasetResponse>(
      *connection_, source, std::move(header), progress,
      [this](grpc::ClientContext& context, v1::CheckDatasetResponse& answer) {
        return connection_->datasets->CheckDataset(&context, &answer);
      });
}

absl::StatusOr<v1::ModelVersion> Client::ImportModelVersion(const std::string& model,
                                                            const std::string& directory,
                                                            const TransferProgress& progress) {
  const auto files = ModelFilesOf(directory);
  if (!files.ok()) return files.status();
  v1::ImportModelVersionRequest first;
  first.mutable_header()->set_model(model);
  first.mutable_header()->set_request_id(NewRequestId());
  int64_t total = 0;
  for (const v1::ModelFile& file : *files) {
    *first.mutable_header()->add_files() = file;
    total += file.size_bytes();
  }
  v1::ModelVersion answer;
  const auto import = [&](grpc::ClientContext& context) -> grpc::Status {
    answer.Clear();
    const auto writer = connection_->models->ImportModelVersion(&context, &answer);
    int64_t sent = 0;
    absl::Status fault;
    bool going_on = writer->Write(first);
    for (size_t i = 0; i < files->size() && going_on && fault.ok(); ++i) {
      const std::string path = directory + "/" + (*files)[i].name();
      const int64_t expected = sent + (*files)[i].size_bytes();
      const auto input = UploadSource::File(path).Open();
      fault =
          input.ok() ? WriteChunks(**input, path, *writer, total, progress, sent) : input.status();
      if (fault.ok() && sent > expected) {
        fault = absl::AbortedError(absl::StrCat(path, " changed while it was read"));
      }
      going_on = sent == expected;
    }
    return EndStream(*writer, context, fault);
  };
  const absl::Status status = connection_->Call(connection_->options.transfer_timeout, import);
  if (!status.ok()) return status;
  return answer;
}

}  // namespace tasuki
