#include "model/text/dataset_report.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/hash/hash.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/text/examples.h"
#include "model/text/utf8.h"

namespace tasuki {
namespace {

constexpr int kListedRows = 20;
constexpr int kListedCharacters = 100;

using Lengths = v1::DatasetReport::TokenLengths;

// Numbers for label values, the same in all datasets of a report.
class LabelNumbers {
 public:
  int32_t Of(const std::string& label) {
    const auto [place, added] = numbers_.try_emplace(label, labels_.size());
    if (added) labels_.push_back(label);
    return place->second;
  }
  const std::string& label(int32_t number) const { return labels_[number]; }

 private:
  std::map<std::string, int32_t> numbers_;
  std::vector<std::string> labels_;
};

struct FirstRow {
  int32_t row = 0;  // from 1
  int32_t label = 0;
};
using FirstRows = absl::flat_hash_map<uint64_t, FirstRow>;

std::string Beginning(const std::string& text) {
  size_t end = 0;
  for (int i = 0; i < kListedCharacters && end < text.size(); ++i) {
    end += CharacterLength(absl::string_view(text).substr(end));
  }
  return text.substr(0, end);
}

// True of ASCII white space, the ideographic space and the no-break space alone.
bool IsBlank(absl::string_view text) {
  while (!text.empty()) {
    const absl::string_view character = text.substr(0, CharacterLength(text));
    const bool blank = character == "\u3000" || character == "\u00a0" ||
                       (character.size() == 1 && absl::ascii_isspace(character[0]));
    if (!blank) return false;
    text.remove_prefix(character.size());
  }
  return true;
}

// Nearest rank: the smallest value that `percent` of them do not exceed. REQUIRES: sorted.
int32_t Percentile(const std::vector<int32_t>& sorted, int64_t percent) {
  const int64_t rank = (static_cast<int64_t>(sorted.size()) * percent + 99) / 100;
  return sorted[std::max<int64_t>(rank, 1) - 1];
}

void Summarize(std::vector<int32_t> lengths, int max_input_tokens, Lengths& summary) {
  std::sort(lengths.begin(), lengths.end());
  summary.set_p50(Percentile(lengths, 50));
  summary.set_p90(Percentile(lengths, 90));
  summary.set_p95(Percentile(lengths, 95));
  summary.set_p99(Percentile(lengths, 99));
  summary.set_max(lengths.back());
  int64_t total = 0;
  for (const int32_t length : lengths) total += length;
  summary.set_total(total);
  summary.set_max_input_tokens(max_input_tokens);
  const int64_t cut =
      lengths.end() - std::upper_bound(lengths.begin(), lengths.end(), max_input_tokens);
  summary.set_cut_row_count(cut);
  summary.set_cut_share(static_cast<double>(cut) / static_cast<double>(lengths.size()));
}

// Reads the datasets one after the other and keeps the first row of every text.
class Reporter {
 public:
  Reporter(const std::vector<ReportedDataset>& datasets, const ReportOptions& options,
           v1::InspectDatasetResponse& response)
      : datasets_(datasets), options_(options), response_(response) {}

  absl::Status Read(size_t number) {
    report_ = response_.add_reports();
    *report_->mutable_dataset() = datasets_[number].dataset;
    first_overlap_ = response_.overlaps_size();
    for (size_t earlier = 0; earlier < number; ++earlier) {
      v1::DatasetOverlap& overlap = *response_.add_overlaps();
      overlap.set_dataset(datasets_[earlier].dataset.name());
      overlap.set_other_dataset(datasets_[number].dataset.name());
    }
    lengths_.clear();
    FirstRows rows;
    absl::Status status =
        ReadExamples(datasets_[number].path, [&](int64_t row, const v1::Example& example) {
          return Add(static_cast<int32_t>(row + 1), example, rows);
        });
    if (!status.ok()) return status;
    if (options_.tokenizer != nullptr) {
      Summarize(std::move(lengths_), options_.max_input_tokens, *report_->mutable_token_lengths());
    }
    earlier_.push_back(std::move(rows));
    return absl::OkStatus();
  }

 private:
  absl::Status Add(int32_t row, const v1::Example& example, FirstRows& rows) {
    if (++row_count_ > kMaxReportedRows) {
      return MakeError(absl::StatusCode::kInvalidArgument, v1::LIMIT_EXCEEDED,
                       absl::StrCat("the datasets have over ", kMaxReportedRows,
                                    " rows together, the limit of a report; report on fewer"));
    }
    const uint64_t hash = absl::HashOf(example.text());
    const int32_t label = labels_.Of(example.label());
    const auto [place, is_new] = rows.try_emplace(hash, FirstRow{row, label});
    const bool blank = IsBlank(example.text());
    if (blank) {
      report_->set_empty_text_count(report_->empty_text_count() + 1);
      if (report_->empty_text_rows_size() < kListedRows) report_->add_empty_text_rows(row);
    }
    if (!is_new && place->second.label == label) {
      report_->set_duplicate_row_count(report_->duplicate_row_count() + 1);
      List(place->second, row, example, *report_->mutable_duplicates());
    } else if (!is_new) {
      report_->set_conflicting_row_count(report_->conflicting_row_count() + 1);
      List(place->second, row, example, *report_->mutable_conflicts());
    }
    for (size_t i = 0; i < earlier_.size(); ++i) {
      const auto found = earlier_[i].find(hash);
      if (found == earlier_[i].end()) continue;
      v1::DatasetOverlap& overlap =
          *response_.mutable_overlaps(first_overlap_ + static_cast<int>(i));
      overlap.set_row_count(overlap.row_count() + 1);
      if (found->second.label != label) {
        overlap.set_conflicting_row_count(overlap.conflicting_row_count() + 1);
      }
      List(found->second, row, example, *overlap.mutable_rows());
    }
    return options_.tokenizer == nullptr ? absl::OkStatus() : Measure(example.text());
  }

  absl::Status Measure(const std::string& text) {
    const Tokenizer& tokenizer = *options_.tokenizer;
    const auto ids = tokenizer.Encode(absl::StrCat(options_.prefix, text));
    if (!ids.ok()) return ids.status();
    lengths_.push_back(static_cast<int32_t>(ids->size()) + 1);  // </s>
    if (std::find(ids->begin(), ids->end(), tokenizer.unk_id()) != ids->end()) {
      Lengths& lengths = *report_->mutable_token_lengths();
      lengths.set_unknown_row_count(lengths.unknown_row_count() + 1);
    }
    return absl::OkStatus();
  }

  void List(const FirstRow& first, int32_t row, const v1::Example& example,
            google::protobuf::RepeatedPtrField<v1::SameText>& list) const {
    if (list.size() == kListedRows) return;
    v1::SameText& same = *list.Add();
    same.set_row(first.row);
    same.set_other_row(row);
    same.set_label(labels_.label(first.label));
    same.set_other_label(example.label());
    same.set_text(Beginning(example.text()));
  }

  const std::vector<ReportedDataset>& datasets_;
  const ReportOptions& options_;
  v1::InspectDatasetResponse& response_;

  int64_t row_count_ = 0;
  LabelNumbers labels_;
  std::vector<FirstRows> earlier_;       // of the datasets that were read
  v1::DatasetReport* report_ = nullptr;  // of the dataset being read
  int first_overlap_ = 0;                // its first in the response
  std::vector<int32_t> lengths_;         // of its inputs
};

}  // namespace

absl::Status ReportOn(const std::vector<ReportedDataset>& datasets, const ReportOptions& options,
                      v1::InspectDatasetResponse& response) {
  Reporter reporter(datasets, options, response);
  for (size_t i = 0; i < datasets.size(); ++i) {
    if (absl::Status status = reporter.Read(i); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace tasuki
