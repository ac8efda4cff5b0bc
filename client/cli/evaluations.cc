#include "client/cli/evaluations.h"

#include <algorithm>
#include <tuple>
#include <type_traits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
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

const std::vector<std::string> kCalibration = {"ROWS>",     "TEMPERATURE>", "NLL>",
                                               "NLL CAL.>", "ECE>",         "ECE CAL.>",
                                               "BRIER>",    "BRIER CAL.>",  "ABSTAIN BELOW>"};

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

Cells FiguresOf(const v1::Calibration& c) {
  const auto known = [&](double figure) { return c.has_after() ? Figure(figure) : "-"; };
  int64_t rows = 0;
  for (const auto& bin : c.after().bins()) rows += bin.row_count();
  return {c.has_after() ? Count(rows) : "-",
          c.calibrated() ? Figure(c.temperature()) : "none",
          known(c.before().nll()),
          known(c.after().nll()),
          known(c.before().ece()),
          known(c.after().ece()),
          known(c.before().brier()),
          known(c.after().brier()),
          c.has_abstain_threshold() ? Figure(c.abstain_threshold()) : "-"};
}

// The rows of `jobs` that `rows` finds, sorted by `key`, each with its job.
template <typename Rows, typename Key>
auto SortedRows(const std::vector<v1::TrainingJob>& jobs, Rows rows, Key key) {
  using Row = std::remove_reference_t<decltype(*rows(jobs.front()).begin())>;
  std::vector<std::pair<Row*, std::string>> sorted;
  for (const auto& job : jobs) {
    for (const auto& row : rows(job)) sorted.emplace_back(&row, ShortName(job.name()));
  }
  std::stable_sort(sorted.begin(), sorted.end(),
                   [&](const auto& a, const auto& b) { return key(*a.first) < key(*b.first); });
  return sorted;
}

}  // namespace

std::string EvaluationTable(const google::protobuf::RepeatedPtrField<v1::Evaluation>& evaluations) {
  Table table(Join(kWhat, kFigures));
  for (const auto& evaluation : evaluations) {
    table.Add(Join(WhatOf(evaluation), FiguresOf(evaluation)));
  }
  return table.empty() ? "" : table.ToString();
}

std::string CalibrationTable(
    const google::protobuf::RepeatedPtrField<v1::Calibration>& calibrations) {
  Table table(Join({"TASK"}, kCalibration));
  for (const auto& calibration : calibrations) {
    table.Add(Join({calibration.task()}, FiguresOf(calibration)));
  }
  return table.empty() ? "" : table.ToString();
}

std::string ComparisonTable(const std::vector<v1::TrainingJob>& jobs) {
  Table evaluations(Join(Join(kWhat, {"JOB"}), kFigures));
  for (const auto& [evaluation, job] : SortedRows(
           jobs, [](const v1::TrainingJob& job) -> const auto& { return job.evaluations(); },
           [](const v1::Evaluation& e) {
             return std::make_tuple(e.task(), e.split(), e.method());
           })) {
    evaluations.Add(Join(Join(WhatOf(*evaluation), {job}), FiguresOf(*evaluation)));
  }
  Table calibrations(Join({"TASK", "JOB"}, kCalibration));
  for (const auto& [calibration, job] : SortedRows(
           jobs, [](const v1::TrainingJob& job) -> const auto& { return job.calibrations(); },
           [](const v1::Calibration& c) { return c.task(); })) {
    calibrations.Add(Join({calibration->task(), job}, FiguresOf(*calibration)));
  }
  const std::string text = evaluations.ToString();
  return calibrations.empty() ? text : absl::StrCat(text, "\n", calibrations.ToString());
}

std::string Words(absl::string_view enum_name) {
  return absl::AsciiStrToLower(absl::StrReplaceAll(enum_name, {{"_", " "}}));
}

}  // namespace tasuki::cli
