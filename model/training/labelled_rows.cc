#include "model/training/labelled_rows.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/errors/errors.h"
#include "model/recipe/recipe.h"
#include "model/text/examples.h"

namespace tasuki {
namespace {

absl::Status UnknownLabel(const v1::Task& task, const std::string& dataset, int64_t row,
                          const std::string& value) {
  std::vector<std::string> values;
  for (const v1::Label& label : task.labels()) {
    values.insert(values.end(), label.values().begin(), label.values().end());
  }
  return MakeError(
      absl::StatusCode::kInvalidArgument, v1::LABEL_UNKNOWN,
      absl::StrCat(dataset, ", row ", row + 1, ": label \"", value, "\" is not one of ",
                   absl::StrJoin(values, ", "), "; add it to the labels of task ", task.name()),
      {{"dataset", dataset}, {"row", absl::StrCat(row + 1)}, {"label", value}});
}

}  // namespace

absl::StatusOr<LabelledRows> LabelledRowsReader::Read(const v1::Task& task,
                                                      const std::string& dataset) const {
  LabelledRows rows{.inputs = TokenRows(places_.checkpoints_directory)};
  const auto place = places_.datasets.find(dataset);
  if (place == places_.datasets.end()) {
    return MakeError(absl::StatusCode::kDataLoss, v1::FILE_CHANGED,
                     absl::StrCat(dataset, " of task ", task.name(), " is not there any more"));
  }
  absl::Status status = ReadExamples(place->second, [&](int64_t row, const v1::Example& example) {
    return Add(task, dataset, row, example, rows);
  });
  if (!status.ok()) return status;
  if (rows.inputs.size() == 0) {
    return MakeError(absl::StatusCode::kInvalidArgument, v1::DATASET_EMPTY,
                     absl::StrCat(dataset, " of task ", task.name(), " has no row"));
  }
  if (rows.truncated_count > 0) {
    observer_.OnMessage(
        v1::TrainingJobEvent::Message::WARNING,
        absl::StrCat("Task ", task.name(), ", ", dataset, ": ", rows.truncated_count, " of ",
                     rows.inputs.size(), " texts are longer than max_input_tokens (", max_tokens_,
                     ") and were cut."));
  }
  return rows;
}

absl::Status LabelledRowsReader::Add(const v1::Task& task, const std::string& dataset, int64_t row,
                                     const v1::Example& example, LabelledRows& rows) const {
  if (stop_.requested()) return absl::CancelledError("stopped");
  const int label = LabelOfValue(task, example.label());
  if (label < 0) return UnknownLabel(task, dataset, row, example.label());
  absl::StatusOr<std::vector<int32_t>> tokens =
      tokenizer_.Encode(absl::StrCat(task.prefix(), example.text()));
  if (!tokens.ok())
    return Annotate(tokens.status(), absl::StrCat(dataset, ", row ", row + 1, ": "));
  const bool truncated = tokens->size() >= max_tokens_;  // </s> needs a place
  if (truncated) {
    ++rows.truncated_count;
    tokens->resize(max_tokens_ - 1);
  }
  tokens->push_back(tokenizer_.eos_id());
  rows.inputs.Add(*tokens);
  rows.labels.push_back(label);
  rows.truncated.push_back(truncated);
  return rows.inputs.status();
}

}  // namespace tasuki
