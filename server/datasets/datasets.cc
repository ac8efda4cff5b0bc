#include "server/datasets/datasets.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "model/files/sha256.h"
#include "model/recipe/field_checker.h"
#include "model/recipe/recipe.h"
#include "model/text/examples.h"
#include "model/text/tokenizer.h"
#include "server/store/dataset_table.h"
#include "server/store/model_table.h"

namespace tasuki {
namespace {

constexpr size_t kMaxLabels = 10'000;
constexpr size_t kListedLabels = 100;
constexpr int kDefaultInspectedRows = 10;
constexpr int kMaxInspectedRows = 100;
constexpr int kMaxOtherDatasets = 7;
// An answer must fit into a gRPC message of 4 MiB.
constexpr size_t kMaxInspectedBytes = size_t{3} << 20;

absl::Status TooLarge(absl::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, v1::LIMIT_EXCEEDED, message);
}

absl::Status CheckHeader(const v1::UploadDatasetHeader& header) {
  Faults faults;
  CheckDisplayName(FieldChecker("header", faults), header.display_name());
  const std::string& sha256 = header.sha256();
  if (!sha256.empty() &&
      (sha256.size() != 64 || sha256.find_first_not_of("0123456789abcdef") != std::string::npos)) {
    faults.Add("header.sha256", "is not 64 lower-case hex digits");
  }
  return faults.ToStatus();
}

absl::Status CheckInspection(const v1::InspectDatasetRequest& request) {
  Faults faults;
  if (request.row_count() < 0) {
    faults.Add("row_count", absl::StrCat(request.row_count(), " is negative"));
  }
  if (!request.report() && (request.other_datasets_size() > 0 || !request.model_version().empty() ||
                            !request.prefix().empty() || request.has_max_input_tokens())) {
    faults.Add("report", "is not set, but options of a report are");
  }
  if (request.other_datasets_size() > kMaxOtherDatasets) {
    faults.Add("other_datasets", absl::StrCat("names ", request.other_datasets_size(),
                                              " datasets, over ", kMaxOtherDatasets));
  }
  std::set<std::string> names = {request.name()};
  for (const std::string& name : request.other_datasets()) {
    if (!names.insert(name).second) {
      faults.Add("other_datasets", absl::StrCat(Quote(name), " is named twice"));
    }
  }
  if (request.has_max_input_tokens()) {
    FieldChecker("", faults)
        .Integer("max_input_tokens", request.max_input_tokens(), kMinInputTokens, kMaxInputTokens);
  }
  return faults.ToStatus();
}

// Parses and describes what arrives, and hands on its canonical lines.
class FileReader {
 public:
  using Sink = std::function<absl::Status(const std::string& line)>;
  FileReader(const v1::UploadDatasetHeader& header, int64_t max_bytes, Sink sink)
      : header_(header),
        max_bytes_(max_bytes),
        sink_(std::move(sink)),
        parser_(header.format(), [this](const v1::Example& example) { return Keep(example); }) {}

  absl::Status Append(absl::string_view bytes) {
    received_bytes_ += bytes.size();
    if (received_bytes_ > max_bytes_) {
      return TooLarge(absl::StrCat("the file has over ", max_bytes_,
                                   " bytes, the limit of an upload; upload it in parts"));
    }
    received_.Update(bytes);
    return parser_.Feed(bytes);
  }

  absl::Status Finish() {
    // Before the rows: bytes that changed on the way may look like bad rows.
    const std::string received = received_.Finish();
    if (!header_.sha256().empty() && received != header_.sha256()) {
      return MakeError(
          absl::StatusCode::kDataLoss, v1::UPLOAD_CORRUPT,
          absl::StrCat("the ", received_bytes_, " bytes received have SHA-256 ", received, ", not ",
                       header_.sha256(), " as declared; upload again"));
    }
    return parser_.Finish();
  }

  // REQUIRES: after Finish; called once.
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

  const RowParser& parser() const { return parser_; }

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
    return sink_(line);
  }

  const v1::UploadDatasetHeader header_;
  const int64_t max_bytes_;
  const Sink sink_;
  RowParser parser_;
  Sha256 received_, canonical_;
  int64_t received_bytes_ = 0, canonical_bytes_ = 0, max_text_bytes_ = 0;
  std::map<std::string, int64_t> labels_;
};

}  // namespace

class Datasets::Receiving : public Datasets::Upload {
 public:
  Receiving(Datasets& datasets, const v1::UploadDatasetHeader& header, std::string path,
            FileWriter writer)
      : datasets_(datasets),
        path_(std::move(path)),
        writer_(std::move(writer)),
        reader_(header, datasets.limits_.upload_bytes,
                [this](const std::string& line) { return writer_.Append(line); }) {}

  // Publish has moved the file away if all went well.
  ~Receiving() override { RemoveAll(path_).IgnoreError(); }

  absl::Status Append(absl::string_view bytes) override {
    if (absl::Status status = datasets_.CheckSpace(bytes.size()); !status.ok()) return status;
    return reader_.Append(bytes);
  }

  absl::StatusOr<v1::Dataset> Finish() override {
    if (absl::Status status = reader_.Finish(); !status.ok()) return status;
    if (absl::Status status = writer_.Close(); !status.ok()) return status;
    return datasets_.Publish(path_, reader_.Describe());
  }

 private:
  Datasets& datasets_;
  const std::string path_;
  FileWriter writer_;
  FileReader reader_;
};

class Datasets::Checking : public Datasets::Check {
 public:
  Checking(const v1::UploadDatasetHeader& header, const DatasetLimits& limits)
      : reader_(header, limits.upload_bytes, [](const std::string&) { return absl::OkStatus(); }) {}

  absl::Status Append(absl::string_view bytes) override { return reader_.Append(bytes); }

  absl::StatusOr<v1::CheckDatasetResponse> Finish() override {
    const absl::Status status = reader_.Finish();
    const int64_t bad_rows = reader_.parser().bad_row_count();
    if (!status.ok() && !(ReasonOf(status) == v1::ROWS_INVALID && bad_rows > 0)) return status;
    v1::CheckDatasetResponse response;
    *response.mutable_dataset() = reader_.Describe();
    if (bad_rows > 0) response.mutable_dataset()->clear_name();
    response.set_bad_row_count(bad_rows);
    const auto& rows = reader_.parser().bad_rows();
    response.mutable_bad_rows()->Assign(rows.begin(), rows.end());
    return response;
  }

 private:
  FileReader reader_;
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

absl::StatusOr<std::unique_ptr<Datasets::Check>> Datasets::BeginCheck(
    const v1::UploadDatasetHeader& header) {
  if (absl::Status status = CheckHeader(header); !status.ok()) return status;
  auto check = std::make_unique<Checking>(header, limits_);
  if (absl::Status status = check->Append(""); !status.ok()) return status;
  return check;
}

absl::StatusOr<ReportedDataset> Datasets::Find(const std::string& name) {
  absl::StatusOr<v1::Dataset> dataset = store_.datasets().Get(name);
  if (!dataset.ok()) return dataset.status();
  const std::string path = directory_.dataset(name);
  std::error_code error;
  if (std::filesystem::exists(path, error)) return ReportedDataset{*std::move(dataset), path};
  return MakeError(absl::StatusCode::kDataLoss, v1::FILE_CHANGED,
                   absl::StrCat("the file of ", name, " is missing; upload the rows again"));
}

absl::StatusOr<v1::InspectDatasetResponse> Datasets::Inspect(
    const v1::InspectDatasetRequest& request) {
  if (absl::Status status = CheckInspection(request); !status.ok()) return status;
  std::vector<ReportedDataset> datasets;
  std::vector<std::string> names = {request.name()};
  names.insert(names.end(), request.other_datasets().begin(), request.other_datasets().end());
  for (const std::string& name : names) {
    absl::StatusOr<ReportedDataset> dataset = Find(name);
    if (!dataset.ok()) return dataset.status();
    datasets.push_back(*std::move(dataset));
  }
  v1::InspectDatasetResponse response;
  *response.mutable_dataset() = datasets[0].dataset;
  const int wanted = request.row_count() == 0 ? kDefaultInspectedRows
                                              : std::min(request.row_count(), kMaxInspectedRows);
  size_t bytes = 0;
  absl::Status status = ReadExamples(
      datasets[0].path,
      [&](int64_t, v1::Example example) {
        bytes += example.ByteSizeLong();
        if (bytes <= kMaxInspectedBytes) *response.add_examples() = std::move(example);
        return absl::OkStatus();
      },
      wanted);
  if (status.ok() && request.report()) status = Report(request, datasets, response);
  if (!status.ok()) return status;
  return response;
}

absl::Status Datasets::Report(const v1::InspectDatasetRequest& request,
                              const std::vector<ReportedDataset>& datasets,
                              v1::InspectDatasetResponse& response) {
  ReportOptions options{.tokenizer = nullptr,
                        .prefix = request.prefix(),
                        .max_input_tokens = request.has_max_input_tokens()
                                                ? request.max_input_tokens()
                                                : kDefaultInputTokens};
  std::unique_ptr<Tokenizer> tokenizer;
  if (!request.model_version().empty()) {
    const auto version = store_.models().GetVersion(request.model_version());
    if (!version.ok()) return version.status();
    auto loaded = Tokenizer::Load(directory_.model_version(version->name()) + "/spiece.model");
    if (!loaded.ok()) return Annotate(loaded.status(), absl::StrCat(version->name(), ": "));
    tokenizer = *std::move(loaded);
    options.tokenizer = tokenizer.get();
  }
  return ReportOn(datasets, options, response);
}

absl::Status Datasets::Delete(const std::string& name) {
  absl::MutexLock lock(&mutex_);
  if (absl::Status status = store_.datasets().Delete(name); !status.ok()) return status;
  // The dataset is gone even if its file stays: uploading the same rows again replaces it.
  RemoveAll(directory_.dataset(name)).IgnoreError();
  return absl::OkStatus();
}

}  // namespace tasuki
