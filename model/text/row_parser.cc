#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "model/errors/errors.h"
#include "model/text/bad_rows.h"
#include "model/text/delimited.h"
#include "model/text/examples.h"
#include "model/text/json_row.h"
#include "model/text/utf8.h"

namespace tasuki {
namespace {

constexpr size_t kMagicBytes = 4;
constexpr size_t kListedColumns = 100;
constexpr size_t kMaxMappedValues = 1000;

absl::Status Invalid(v1::ErrorReason reason, absl::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, reason, message);
}

// Name of the kind of file that begins so, if it is one that people upload by mistake.
absl::string_view ForeignKind(absl::string_view head) {
  static constexpr struct {
    absl::string_view magic;
    absl::string_view kind;
  } kKinds[] = {
      {"\x1f\x8b", "gzip"},
      {"PK\x03\x04", "zip or a spreadsheet"},
      {"PAR1", "Parquet"},
      {"%PDF", "PDF"},
      {"\xff\xfe", "UTF-16 text"},
      {"\xfe\xff", "UTF-16 text"},
      {"\x28\xb5\x2f\xfd", "Zstandard"},
  };
  for (const auto& [magic, kind] : kKinds) {
    if (absl::StartsWith(head, magic)) return kind;
  }
  return "";
}

// First thing wrong with an example, if any.
std::optional<RowFault> CheckExample(const v1::Example& example, const std::string& text_column,
                                     const std::string& label_column, bool labelled) {
  const std::string& text = example.text();
  const std::string& label = example.label();
  if (text.size() > kMaxTextBytes) {
    return RowFault{text_column, absl::StrCat("has ", text.size(), " bytes, over 1 MiB"), text};
  }
  if (absl::StrContains(text, '\0')) return RowFault{text_column, "holds a NUL", text};
  if (!labelled) return std::nullopt;
  if (label.empty()) return RowFault{label_column, "is empty", ""};
  if (label.size() > kMaxLabelBytes) {
    return RowFault{label_column, absl::StrCat("has ", label.size(), " bytes, over 256"), label};
  }
  if (absl::StrContains(label, '\0')) return RowFault{label_column, "holds a NUL", label};
  return std::nullopt;
}

std::string ColumnOr(const std::string& column, const v1::DatasetFormat& format, const char* named,
                     const char* numbered) {
  if (!column.empty()) return column;
  return format.no_header() ? numbered : named;
}

bool IsColumnNumber(const std::string& column) {
  return !column.empty() && column.size() < 6 && column[0] != '0' &&
         column.find_first_not_of("0123456789") == std::string::npos;
}

void CheckMapping(const v1::DatasetFormat& format, Faults& faults) {
  const auto& mapping = format.value_mapping();
  if (mapping.size() > kMaxMappedValues) {
    faults.Add("format.value_mapping",
               absl::StrCat("has ", mapping.size(), " values, over ", kMaxMappedValues));
  }
  if (!mapping.empty() && format.texts_only()) {
    faults.Add("format.value_mapping", "there are no labels to map with texts_only");
  }
  for (const auto& [value, label] : mapping) {
    if (!label.empty() && label.size() <= kMaxLabelBytes && !absl::StrContains(label, '\0'))
      continue;
    faults.Add("format.value_mapping",
               absl::StrCat(Excerpt(value), " is mapped to ", Excerpt(label),
                            "; a label has 1 to 256 bytes without NUL"));
  }
}

}  // namespace

class RowParser::Impl {
 public:
  Impl(const v1::DatasetFormat& format, Sink sink)
      : json_(format.kind() == v1::DatasetFormat::JSONL),
        quoting_(format.quoting() != v1::DatasetFormat::NONE),
        delimiter_(format.kind() == v1::DatasetFormat::TSV ? '\t' : ','),
        no_header_(format.no_header()),
        text_column_(ColumnOr(format.text_column(), format, "text", "1")),
        label_column_(ColumnOr(format.label_column(), format, "label",
                               format.text_column() == "2" ? "1" : "2")),
        label_required_((!format.label_column().empty() || !format.value_mapping().empty()) &&
                        !format.texts_only()),
        texts_only_(format.texts_only()),
        mapping_(format.value_mapping().begin(), format.value_mapping().end()),
        sink_(std::move(sink)),
        splitter_(!json_ && quoting_ ? std::optional<char>(delimiter_) : std::nullopt,
                  kMaxLineBytes) {
    Faults faults;
    if (!v1::DatasetFormat::Kind_IsValid(format.kind()) ||
        format.kind() == v1::DatasetFormat::KIND_UNSPECIFIED) {
      faults.Add("format.kind", "say whether the file is TSV, CSV or JSONL");
    }
    if (text_column_ == label_column_ && !texts_only_) {
      faults.Add("format.label_column", "text and label cannot be the same column");
    }
    if (no_header_ && json_) faults.Add("format.no_header", "JSON Lines never have a header");
    if (no_header_ && !json_) {
      for (const auto& [field, column] : {std::pair("format.text_column", &text_column_),
                                          std::pair("format.label_column", &label_column_)}) {
        if (IsColumnNumber(*column)) continue;
        faults.Add(field, absl::StrCat(Excerpt(*column),
                                       " is not a number; without a header columns are 1, 2, …"));
      }
    }
    CheckMapping(format, faults);
    status_ = faults.ToStatus();
  }

  absl::Status Feed(absl::string_view bytes) {
    if (!status_.ok()) return status_;
    if (started_) return status_ = Split(bytes);
    absl::StrAppend(&head_, bytes);
    if (head_.size() >= kMagicBytes) status_ = Start();
    return status_;
  }

  absl::Status Finish() {
    if (status_.ok() && !started_) status_ = Start();
    if (status_.ok()) status_ = splitter_.Finish(on_record_);
    if (!status_.ok()) return status_;
    if (bad_rows_.count() > 0) return bad_rows_.ToStatus(/*rows=*/row_);
    if (row_ == 0) {
      return Invalid(v1::DATASET_EMPTY,
                     have_header_ ? "the file has a header but no row" : "the file is empty");
    }
    return absl::OkStatus();
  }

  int64_t row_count() const { return row_count_; }
  bool labelled() const { return labelled_; }
  const std::vector<std::string>& ignored_columns() const { return ignored_columns_; }
  const BadRows& bad_rows() const { return bad_rows_; }

 private:
  // The first bytes are there, or the file is shorter than that.
  absl::Status Start() {
    started_ = true;
    const absl::string_view kind = ForeignKind(head_);
    if (!kind.empty()) {
      return Invalid(
          v1::UNSUPPORTED_FORMAT,
          absl::StrCat("the file is ", kind, "; upload plain TSV, CSV or JSONL in UTF-8"));
    }
    absl::string_view head = head_;
    if (absl::ConsumePrefix(&head, "\xef\xbb\xbf")) bom_bytes_ = 3;
    return Split(head);
  }

  absl::Status Split(absl::string_view bytes) { return splitter_.Feed(bytes, on_record_); }

  absl::Status OnRecord(const RecordSplitter::Record& record) {
    if (record.bytes.find_first_not_of(json_ ? " \t" : "") == absl::string_view::npos) {
      return absl::OkStatus();  // a blank line
    }
    if (!json_ && !no_header_ && !have_header_) return ReadHeader(record);
    ++row_;
    v1::Example example;
    std::optional<RowFault> fault = ReadRow(record, example);
    if (!columns_status_.ok()) return columns_status_;
    if (!fault && labelled_ && !mapping_.empty()) fault = MapLabel(example);
    if (!fault) fault = CheckExample(example, text_column_, label_column_, labelled_);
    if (fault) {
      bad_rows_.Add(row_, record.line, *fault);
      return absl::OkStatus();
    }
    ++row_count_;
    return sink_(std::move(example));
  }

  std::optional<RowFault> CheckRecord(const RecordSplitter::Record& record) const {
    if (record.too_long) {
      return RowFault{"", "is longer than 4 MiB (is a quote not closed?)",
                      std::string(record.bytes.substr(0, 100))};
    }
    const size_t invalid = FirstInvalidUtf8(record.bytes);
    if (invalid == absl::string_view::npos) return std::nullopt;
    return RowFault{
        "",
        absl::StrCat("is not UTF-8 at byte ", bom_bytes_ + record.offset + invalid, " of the file"),
        std::string(record.bytes.substr(invalid, 100))};
  }

  absl::Status ReadHeader(const RecordSplitter::Record& record) {
    have_header_ = true;
    if (absl::StrContains(record.bytes, '\0')) {
      return Invalid(v1::UNSUPPORTED_FORMAT,
                     "the header holds a NUL; upload plain TSV, CSV or JSONL in UTF-8");
    }
    if (const auto fault = CheckRecord(record)) {
      return Invalid(v1::ROWS_INVALID,
                     absl::StrCat("the header ", fault->cause, ": ", Excerpt(fault->value)));
    }
    if (const auto fault = SplitFields(record.bytes, delimiter_, quoting_, columns_)) {
      return Invalid(v1::ROWS_INVALID,
                     absl::StrCat("field ", fault->field + 1, " of the header ", fault->cause));
    }
    return LocateColumns();
  }

  // Finds text and label among columns_.
  absl::Status LocateColumns() {
    const bool has_label =
        std::find(columns_.begin(), columns_.end(), label_column_) != columns_.end();
    labelled_ = !texts_only_ && (label_required_ || has_label);
    absl::Status status = Locate(text_column_, text_field_);
    if (status.ok() && labelled_) status = Locate(label_column_, label_field_);
    if (!status.ok()) return status;
    for (size_t i = 0; i < columns_.size(); ++i) {
      if (i != text_field_ && !(labelled_ && i == label_field_)) Ignore(columns_[i]);
    }
    return absl::OkStatus();
  }

  // Puts what the label's value means in its place.
  std::optional<RowFault> MapLabel(v1::Example& example) const {
    const auto found = mapping_.find(example.label());
    if (found != mapping_.end()) {
      example.set_label(found->second);
      return std::nullopt;
    }
    if (example.label().empty()) return RowFault{label_column_, "is empty", ""};
    return RowFault{label_column_, "has no label in value_mapping", example.label()};
  }

  // Finds the one column of that name.
  absl::Status Locate(const std::string& name, size_t& field) const {
    const int64_t count = std::count(columns_.begin(), columns_.end(), name);
    field = std::find(columns_.begin(), columns_.end(), name) - columns_.begin();
    if (count == 1) return absl::OkStatus();
    const size_t listed = std::min<size_t>(columns_.size(), 20);
    const std::string columns = absl::StrJoin(
        columns_.begin(), columns_.begin() + listed, ", ",
        [](std::string* out, const std::string& column) { absl::StrAppend(out, Excerpt(column)); });
    return MakeError(
        absl::StatusCode::kInvalidArgument, v1::COLUMN_MISSING,
        absl::StrCat("column ", Excerpt(name),
                     count == 0 ? " is not in the file" : " is in the header twice",
                     "; the columns are ", columns, listed < columns_.size() ? ", …" : ""),
        {{"column", name}});
  }

  std::optional<RowFault> ReadRow(const RecordSplitter::Record& record, v1::Example& example) {
    if (auto fault = CheckRecord(record)) return fault;
    return json_ ? ReadJson(record.bytes, example) : ReadFields(record.bytes, example);
  }

  std::optional<RowFault> ReadFields(absl::string_view bytes, v1::Example& example) {
    if (const auto fault = SplitFields(bytes, delimiter_, quoting_, fields_)) {
      return RowFault{fault->field < columns_.size() ? columns_[fault->field] : "", fault->cause,
                      std::string(bytes)};
    }
    if (columns_.empty()) {  // no header: the first row
      for (size_t i = 1; i <= fields_.size(); ++i) columns_.push_back(absl::StrCat(i));
      columns_status_ = LocateColumns();
      if (!columns_status_.ok()) return std::nullopt;
    }
    if (fields_.size() != columns_.size()) {
      return RowFault{"",
                      absl::StrCat("has ", fields_.size(), " fields, the ",
                                   no_header_ ? "first row" : "header", " has ", columns_.size()),
                      std::string(bytes)};
    }
    example.set_text(std::move(fields_[text_field_]));
    if (labelled_) example.set_label(std::move(fields_[label_field_]));
    return std::nullopt;
  }

  std::optional<RowFault> ReadJson(absl::string_view bytes, v1::Example& example) {
    JsonRow row;
    if (auto fault = ParseJsonRow(bytes, text_column_, texts_only_ ? "" : label_column_, row)) {
      return fault;
    }
    // The first row that can be read decides whether the file has labels.
    if (columns_.empty()) {
      columns_ = row.other_keys;
      if (row.text) columns_.push_back(text_column_);
      if (row.label) columns_.push_back(label_column_);
      columns_status_ = LocateColumns();
    }
    for (const std::string& key : row.other_keys) Ignore(key);
    if (!row.text) return RowFault{text_column_, "is missing", std::string(bytes)};
    if (labelled_ && !row.label) return RowFault{label_column_, "is missing", std::string(bytes)};
    if (!labelled_ && row.label) {
      return RowFault{label_column_, "is there, but the first row has none", *row.label};
    }
    example.set_text(*std::move(row.text));
    if (labelled_) example.set_label(*std::move(row.label));
    return std::nullopt;
  }

  void Ignore(const std::string& column) {
    if (ignored_columns_.size() == kListedColumns || column.size() > kMaxLabelBytes) return;
    const auto end = ignored_columns_.end();
    if (std::find(ignored_columns_.begin(), end, column) == end) ignored_columns_.push_back(column);
  }

  const bool json_, quoting_;
  const char delimiter_;
  const bool no_header_;
  const std::string text_column_, label_column_;
  const bool label_required_, texts_only_;
  const std::map<std::string, std::string> mapping_;
  const Sink sink_;
  RecordSplitter splitter_;
  const RecordSplitter::Sink on_record_ = [this](const auto& record) { return OnRecord(record); };

  absl::Status status_;  // once not OK, everything answers it
  bool started_ = false;
  std::string head_;
  int64_t bom_bytes_ = 0;
  bool have_header_ = false;
  std::vector<std::string> columns_, fields_;
  size_t text_field_ = 0, label_field_ = 0;
  absl::Status columns_status_;  // of the first row, where there is no header
  bool labelled_ = false;
  int64_t row_ = 0;        // rows seen
  int64_t row_count_ = 0;  // rows handed on
  BadRows bad_rows_;
  std::vector<std::string> ignored_columns_;
};

RowParser::RowParser(const v1::DatasetFormat& format, Sink sink)
    : impl_(std::make_unique<Impl>(format, std::move(sink))) {}
RowParser::~RowParser() = default;
absl::Status RowParser::Feed(absl::string_view bytes) { return impl_->Feed(bytes); }
absl::Status RowParser::Finish() { return impl_->Finish(); }
int64_t RowParser::row_count() const { return impl_->row_count(); }
bool RowParser::labelled() const { return impl_->labelled(); }
const std::vector<std::string>& RowParser::ignored_columns() const {
  return impl_->ignored_columns();
}
int64_t RowParser::bad_row_count() const { return impl_->bad_rows().count(); }
const std::vector<v1::CheckDatasetResponse::BadRow>& RowParser::bad_rows() const {
  return impl_->bad_rows().rows();
}

}  // namespace tasuki
