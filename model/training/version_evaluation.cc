#include "model/training/version_evaluation.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "model/files/model_directory.h"
#include "model/t5/config.h"
#include "model/t5/scorer.h"
#include "model/t5/t5.h"
#include "model/t5/weights.h"
#include "model/text/calibration.h"
#include "model/text/label_trie.h"
#include "model/text/tokenizer.h"
#include "model/training/evaluation.h"
#include "model/training/labelled_rows.h"

namespace tasuki {
namespace {

// Whether the version's calibration of `own` is that of `task` too.
bool AnswersAlike(const v1::Task& own, const v1::Task& task) {
  return own.prefix() == task.prefix() &&
         std::equal(own.labels().begin(), own.labels().end(), task.labels().begin(),
                    task.labels().end(), [](const v1::Label& a, const v1::Label& b) {
                      return a.name() == b.name() && a.target_text() == b.target_text();
                    });
}

v1::Calibration CalibrationFor(const v1::Task& task, const internal::ModelManifest& manifest) {
  for (const v1::Task& own : manifest.tasks()) {
    if (own.name() == task.name() && AnswersAlike(own, task)) {
      return CalibrationOf(manifest.calibrations(), task.name());
    }
  }
  return CalibrationOf({}, task.name());
}

// The answers to the rows of one task, a line each.
absl::Status WriteAnswers(const v1::Task& task, const LabelledRows& rows, const LabelScores& scores,
                          double temperature, FileWriter& file) {
  for (size_t row = 0; row < scores.size(); ++row) {
    const std::vector<double> p = Probabilities(scores[row], temperature);
    const int predicted = static_cast<int>(std::max_element(p.begin(), p.end()) - p.begin());
    nlohmann::ordered_json line;
    line["task"] = task.name();
    line["row"] = row + 1;
    line["label"] = task.labels(rows.labels[row]).name();
    line["predicted"] = task.labels(predicted).name();
    for (size_t i = 0; i < p.size(); ++i) {
      line["probabilities"][task.labels(static_cast<int>(i)).name()] = p[i];
    }
    line["truncated"] = static_cast<bool>(rows.truncated[row]);
    if (absl::Status status = file.Append(line.dump() + "\n"); !status.ok()) return status;
  }
  return absl::OkStatus();
}

class VersionEvaluation {
 public:
  VersionEvaluation(const T5& model, const Tokenizer& tokenizer,
                    const internal::ModelManifest& manifest, const StopSignal& stop,
                    TrainingObserver& observer, ProgressReporter& progress)
      : model_(model),
        scorer_(T5Scorer::Make(model.config(), model.weights())),
        tokenizer_(tokenizer),
        manifest_(manifest),
        stop_(stop),
        observer_(observer),
        progress_(progress) {}

  // `answers` may be null.
  absl::Status Evaluate(const v1::Task& task, const LabelledRows& rows, FileWriter* answers,
                        TrainingOutcome& outcome) const {
    const absl::StatusOr<LabelTrie> labels = LabelTrie::Build(task, tokenizer_);
    if (!labels.ok()) return labels.status();
    const absl::StatusOr<LabelScores> scores =
        ScoreLabels(*scorer_, rows, *labels, stop_, progress_);
    if (!scores.ok()) return scores.status();
    for (absl::StatusOr<v1::Evaluation> evaluation :
         {absl::StatusOr<v1::Evaluation>(EvaluateScores(rows, *scores)),
          EvaluateTeacherForced(model_, rows, *labels, tokenizer_, std::nullopt, stop_,
                                progress_)}) {
      if (!evaluation.ok()) return evaluation.status();
      if (!std::isfinite(evaluation->loss())) {
        return MakeError(absl::StatusCode::kOutOfRange, v1::NON_FINITE_LOSS,
                         absl::StrCat("task ", task.name(), ": the loss is not a finite number"));
      }
      evaluation->set_task(task.name());
      evaluation->set_split(v1::Evaluation::TEST);
      observer_.OnEvaluation(*evaluation);
      outcome.evaluations.push_back(*std::move(evaluation));
    }
    v1::Calibration calibration = CalibrationFor(task, manifest_);
    MeasureCalibration(task.test_dataset(), rows, *scores, calibration);
    const double temperature = calibration.temperature();
    outcome.calibrations.push_back(std::move(calibration));
    if (answers == nullptr) return absl::OkStatus();
    return WriteAnswers(task, rows, *scores, temperature, *answers);
  }

 private:
  const T5& model_;
  const std::unique_ptr<const T5Scorer> scorer_;
  const Tokenizer& tokenizer_;
  const internal::ModelManifest& manifest_;
  const StopSignal& stop_;
  TrainingObserver& observer_;
  ProgressReporter& progress_;
};

}  // namespace

absl::StatusOr<TrainingOutcome> EvaluateVersion(const v1::EvaluationJob& job,
                                                const TrainingPlaces& places,
                                                const TrainingOptions& options,
                                                const StopSignal& stop, TrainingObserver& observer,
                                                ProgressReporter& progress) {
  const std::string& directory = places.base_directory;
  auto config = T5Config::Read(directory + "/config.json");
  if (!config.ok()) return config.status();
  auto tokenizer = Tokenizer::Load(directory + "/spiece.model");
  if (!tokenizer.ok()) return tokenizer.status();
  const auto manifest = ReadManifest(directory);
  if (!manifest.ok()) return manifest.status();

  // All rows first: what is wrong with them is known before anything is computed.
  const LabelledRowsReader reader(**tokenizer, job.max_input_tokens(), places, stop, observer);
  std::vector<LabelledRows> rows;
  int64_t row_count = 0;
  for (const v1::Task& task : job.tasks()) {
    auto read = reader.Read(task, task.test_dataset());
    if (absl::IsCancelled(read.status())) return TrainingOutcome{};
    if (!read.ok()) return read.status();
    row_count += read->inputs.size();
    rows.push_back(*std::move(read));
  }
  auto weights = ReadWeights(directory, *config);
  if (!weights.ok()) return weights.status();
  const T5 model(*config, OnDevice(*std::move(weights), options.device));

  progress.Enter(v1::Progress::EVALUATING);
  progress.ExpectRows(2 * row_count);  // by labels and by teacher forcing
  const std::string aside = places.predictions_file + ".tmp";
  std::optional<FileWriter> answers;
  if (job.write_predictions()) {
    auto file = FileWriter::Create(aside);
    if (!file.ok()) return file.status();
    answers = *std::move(file);
  }
  TrainingOutcome outcome;
  const VersionEvaluation evaluation(model, **tokenizer, *manifest, stop, observer, progress);
  for (int i = 0; i < job.tasks_size(); ++i) {
    const absl::Status status =
        evaluation.Evaluate(job.tasks(i), rows[i], answers ? &*answers : nullptr, outcome);
    if (absl::IsCancelled(status)) return TrainingOutcome{};
    if (!status.ok()) return status;
  }
  if (answers) {
    absl::Status status = answers->Close();
    if (status.ok()) status = PublishFile(aside, places.predictions_file);
    if (!status.ok()) return status;
  }
  outcome.finished = true;
  return outcome;
}

}  // namespace tasuki
