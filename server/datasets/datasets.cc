#include "server/datasets/datasets.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "model/files/sha256.h"
#include "model/text/examples.h"
#include "server/store/dataset_table.h"

namespace tasuki {
namespace {

constexpr size_t kMaxDisplayName = 63;  // characters
constexpr size_t kMaxLabels = 10'000;
constexpr size_t kListedLabels = 100;
constexpr int kDefaultInspectedRows = 10;
constexpr int kMaxInspectedRows = 100;
// An answer must fit into a gRPC message of 4 MiB.
constexpr size_t kMaxInspectedBytes = size_t{3} << 20;

absl::Status TooLarge(absl::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, v1::LIMIT_EXCEEDED, message);
}

absl::Status CheckHeader(const v1::UploadDatasetHeader& header) {
  Faults faults;
  const std::string& name = header.display_name();
  const int64_t characters =
      std::count_if(name.begin(), name.end(), [](char c) { return (c & 0xC0) != 0x80; });
  if (characters > kMaxDisplayName) {
    faults.Add("header.display_name",
               absl::StrCat("has ", characters, " characters, over ", kMaxDisplayName));
  }
  const std::string& sha256 = header.sha256();
  if (!sha256.empty() &&
      (sha256.size() != 64 || sha256.find_first_not_of("0123456789abcdef") != std::string::npos)) {
    faults.Add("header.sha256", "is not 64 lower-case hex digits");
  }
  return faults.ToStatus();
}

}  // namespace

// Parses, hashes and writes what arrives.
class Datasets::Receiving : public Datasets::Upload {
 public:
  Receiving(Datasets& datasets, const v1::UploadDatasetHeader& header, std::string path,
            FileWriter writer)
      : datasets_(datasets),
        header_(header),
        path_(std::move(path)),
        writer_(std::move(writer)),
        parser_(header.format(), [this](v1::Example example) { return Keep(example); }) {}

  // Publish has moved the file away if all went well.
  ~Receiving() override { RemoveAll(path_).IgnoreError(); }

  absl::Status Append(absl::string_view bytes) override {
    const DatasetLimits& limits = datasets_.limits_;
    received_bytes_ += bytes.size();
    if (received_bytes_ > limits.upload_bytes) {
      return TooLarge(absl::StrCat("the file has over ", limits.upload_bytes,
                                   " bytes, the limit of an upload; upload it in parts"));
    }
    if (absl::Status status = datasets_.CheckSpace(bytes.size()); !status.ok()) return status;
    received_.Update(bytes);
    return parser_.Feed(bytes);
  }

  absl::StatusOr<v1::Dataset> Finish() override {
    // Before the rows: bytes that changed on the way may look like bad rows.
    const std::string received = received_.Finish();
    if (!header_.sha256().empty() && received != header_.sha256()) {
      return MakeError(
          absl::StatusCode::kDataLoss, v1::UPLOAD_CORRUPT,
          absl::StrCat("the ", received_bytes_, " bytes received have SHA-256 ", received, ", not ",
                       header_.sha256(), " as declared; upload again"));
    }
    if (absl::Status status = parser_.Finish(); !status.ok()) return status;
    if (absl::Status status = writer_.Close(); !status.ok()) return status;
    return datasets_.Publish(path_, Describe());
  }

 private:
  absl::Status Keep(const v1::Example& example) {
    max_text_bytes_ = std::max<int64_t>(max_text_bytes_, example.text().size());
    const std::string line = CanonicalLine(example, parser_.labelled());
    if (parser_.labelled()) ++labels_[example.label()];
    if (labels_.size() > kMaxLabels) {
      return TooLarge(absl::StrCat("the label column has over ", kMaxLabels,
                                   " different values; name the right label_column"));
    }
    canonical_.Update(line);
    canonical_bytes_ += line.size();
    return writer_.Append(line);
  }

  v1::Dataset Describe() {
    v1::Dataset dataset;
    dataset.set_sha256(canonical_.Finish());
    dataset.set_name(absl::StrCat("datasets/d-", dataset.sha256().substr(0, 16)));
    dataset.set_display_name(header_.display_name());
    dataset.set_row_count(parser_.row_count());
    dataset.set_size_bytes(canonical_bytes_);
    dataset.set_labelled(parser_.labelled());
    dataset.set_max_text_bytes(max_text_bytes_);
    for (const std::string& column : parser_.ignored_columns()) dataset.add_ignored_columns(column);

    std::vector<std::pair<std::string, int64_t>> counts(labels_.begin(), labels_.end());
    std::stable_sort(counts.begin(), counts.end(),
                     [](const auto& a, const auto& b) { return a.second > b.second; });
    counts.resize(std::min(counts.size(), kListedLabels));
    for (const auto& [value, rows] : counts) {
      v1::Dataset::LabelCount& count = *dataset.add_label_counts();
      count.set_value(value);
      count.set_row_count(rows);
    }
    return dataset;
  }

  Datasets& datasets_;
  const v1::UploadDatasetHeader header_;
  const std::string path_;
  FileWriter writer_;
  RowParser parser_;
  Sha256 received_, canonical_;
  int64_t received_bytes_ = 0, canonical_bytes_ = 0, max_text_bytes_ = 0;
  std::map<std::string, int64_t> labels_;
};

Datasets::Datasets(Store& store, const DataDirectory& directory, DatasetLimits limits)
    : store_(store), directory_(directory), limits_(limits) {}

absl::Status Datasets::CheckSpace(int64_t bytes) const {
  const absl::StatusOr<int64_t> free = FreeBytes(directory_.aside());
  if (!free.ok()) return free.status();
  if (*free - bytes >= limits_.reserved_bytes) return absl::OkStatus();
  return MakeError(
      absl::StatusCode::kResourceExhausted, v1::DISK_FULL,
      absl::StrCat("the data volume has ", *free, " bytes free, of which ", limits_.reserved_bytes,
                   " are kept for jobs; delete datasets or models and upload again"));
}

absl::StatusOr<std::unique_ptr<Datasets::Upload>> Datasets::Begin(
    const v1::UploadDatasetHeader& header) {
  if (absl::Status status = CheckHeader(header); !status.ok()) return status;
  const std::string path = absl::StrCat(directory_.aside(), "/upload-", ++uploads_);
  if (absl::Status status = MakeDirectories(directory_.aside()); !status.ok()) return status;
  absl::StatusOr<FileWriter> writer = FileWriter::Create(path);
  if (!writer.ok()) return writer.status();
  auto upload = std::make_unique<Receiving>(*this, header, path, *std::move(writer));
  // Also answers what is wrong with the format.
  if (absl::Status status = upload->Append(""); !status.ok()) return status;
  return upload;
}

absl::StatusOr<v1::Dataset> Datasets::Publish(const std::string& aside,
                                              const v1::Dataset& dataset) {
  const std::string path = directory_.dataset(dataset.name());
  const std::string parent = std::filesystem::path(path).parent_path().string();
  if (absl::Status status = MakeDirectories(parent); !status.ok()) return status;

  absl::MutexLock lock(&mutex_);
  const absl::StatusOr<v1::Dataset> present = store_.datasets().Get(dataset.name());
  if (!present.ok() && !absl::IsNotFound(present.status())) return present.status();
  if (present.ok() && present->sha256() != dataset.sha256()) {
    return MakeError(absl::StatusCode::kAlreadyExists, v1::RESOURCE_EXISTS,
                     absl::StrCat("other rows are stored as ", dataset.name()));
  }
  std::error_code error;
  if (present.ok() && std::filesystem::exists(path, error)) return present;

  if (absl::Status status = PublishFile(aside, path); !status.ok()) return status;
  const absl::StatusOr<v1::Dataset> inserted = store_.datasets().Insert(dataset);
  // A row without its file would be worse than the reverse: look before removing.
  if (!inserted.ok() && absl::IsNotFound(store_.datasets().Get(dataset.name()).status())) {
    RemoveAll(path).IgnoreError();
  }
  return inserted;
}

absl::StatusOr<v1::InspectDatasetResponse> Datasets::Inspect(const std::string& name,
                                                             int row_count) {
  if (row_count < 0) {
    Faults faults;
    faults.Add("row_count", absl::StrCat(row_count, " is negative"));
    return faults.ToStatus();
  }
  absl::StatusOr<v1::Dataset> dataset = store_.datasets().Get(name);
  if (!dataset.ok()) return dataset.status();
  v1::InspectDatasetResponse response;
  const int wanted =
      row_count == 0 ? kDefaultInspectedRows : std::min(row_count, kMaxInspectedRows);
  size_t bytes = 0;
  absl::Status status = ReadExamples(
      directory_.dataset(name),
      [&](int64_t, v1::Example example) {
        bytes += example.ByteSizeLong();
        if (bytes <= kMaxInspectedBytes) *response.add_examples() = std::move(example);
        return absl::OkStatus();
      },
      wanted);
  if (absl::IsNotFound(status)) {
    status = MakeError(absl::StatusCode::kDataLoss, v1::FILE_CHANGED,
                       absl::StrCat("the file of ", name, " is missing; upload the rows again"));
  }
  if (!status.ok()) return status;
  *response.mutable_dataset() = *std::move(dataset);
  return response;
}

absl::Status Datasets::Delete(const std::string& name) {
  absl::MutexLock lock(&mutex_);
  if (absl::Status status = store_.datasets().Delete(name); !status.ok()) return status;
  // The dataset is gone even if its file stays: uploading the same rows again replaces it.
  RemoveAll(directory_.dataset(name)).IgnoreError();
  return absl::OkStatus();
}

}  // namespace tasuki
