#include "client/cli/evaluations.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/ascii.h"
#include "absl/strings/str_replace.h"
#include "client/cli/names.h"
#include "client/cli/table.h"
#include "client/cli/text.h"

namespace tasuki::cli {
namespace {

const std::vector<std::string> kWhat = {"TASK", "METHOD", "SPLIT"};
const std::vector<std::string> kFigures = {"ROWS>",    "LOSS>",      "ACCURACY>", "MACRO F1>",
                                           "MACRO P>", "MACRO R>",   "MICRO F1>", "MICRO P>",
                                           "MICRO R>", "MAJ. ACC.>", "MAJ. F1>"};

using Cells = std::vector<std::string>;

Cells Join(Cells left, const Cells& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

Cells WhatOf(const v1::Evaluation& evaluation) {
  return {evaluation.task().empty() ? "-" : evaluation.task(),
          Words(v1::Evaluation::Method_Name(evaluation.method())),
          Words(v1::Evaluation::Split_Name(evaluation.split()))};
}

Cells FiguresOf(const v1::Evaluation& e) {
  Cells cells = {Count(e.row_count()), Figure(e.loss())};
  for (const double figure :
       {e.accuracy(), e.macro_f1(), e.macro_precision(), e.macro_recall(), e.micro_f1(),
        e.micro_precision(), e.micro_recall(), e.majority_accuracy(), e.majority_macro_f1()}) {
    // The evaluation of a pre-training job has a loss only.
    cells.push_back(e.task().empty() ? "-" : Figure(figure));
  }
  return cells;
}

}  // namespace

std::string EvaluationTable(const google::protobuf::RepeatedPtrField<v1::Evaluation>& evaluations) {
  Table table(Join(kWhat, kFigures));
  for (const auto& evaluation : evaluations) {
    table.Add(Join(WhatOf(evaluation), FiguresOf(evaluation)));
  }
  return table.empty() ? "" : table.ToString();
}

std::string ComparisonTable(const std::vector<v1::TrainingJob>& jobs) {
  struct Row {
    const v1::Evaluation* evaluation;
    const v1::TrainingJob* job;
  };
  std::vector<Row> rows;
  for (const auto& job : jobs) {
    for (const auto& evaluation : job.evaluations()) rows.push_back({&evaluation, &job});
  }
  const auto key = [](const Row& row) {
    return std::make_tuple(row.evaluation->task(), row.evaluation->split(),
                           row.evaluation->method());
  };
  std::stable_sort(rows.begin(), rows.end(),
                   [&](const Row& a, const Row& b) { return key(a) < key(b); });
  Table table(Join(Join(kWhat, {"JOB"}), kFigures));
  for (const Row& row : rows) {
    table.Add(Join(Join(WhatOf(*row.evaluation), {ShortName(row.job->name())}),
                   FiguresOf(*row.evaluation)));
  }
  return table.ToString();
}

std::string Words(absl::string_view enum_name) {
  return absl::AsciiStrToLower(absl::StrReplaceAll(enum_name, {{"_", " "}}));
}

}  // namespace tasuki::cli
