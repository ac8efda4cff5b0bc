// The two evaluations of a task, eight figures each (docs/design.md, "Decisions"), and the scores
// behind the first, which calibration looks at too. Includes torch.
//
// Both fill method, row_count, truncated_row_count, loss, the figures and the majority's; task,
// split and step are the caller's. Dropout is off. They add the rows of each pass to `progress`,
// and end with CANCELLED as soon as `stop` is requested.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "model/t5/scorer.h"
#include "model/t5/t5.h"
#include "model/text/calibration.h"
#include "model/text/label_trie.h"
#include "model/text/tokenizer.h"
#include "model/training/labelled_rows.h"
#include "model/training/progress.h"
#include "model/training/training.h"

namespace tasuki {

// Log p of each label of each row, in the order of the rows.
absl::StatusOr<LabelScores> ScoreLabels(const T5Scorer& scorer, const LabelledRows& rows,
                                        const LabelTrie& labels, const StopSignal& stop,
                                        ProgressReporter& progress);

// Every label is scored; the answer is the likeliest. Classes: the declared labels. Loss: mean of
// -log p(right label), not calibrated.
absl::StatusOr<v1::Evaluation> EvaluateLabels(const T5Scorer& scorer, const LabelledRows& rows,
                                              const LabelTrie& labels, const StopSignal& stop,
                                              ProgressReporter& progress);
// The same of scores that are there already.
v1::Evaluation EvaluateScores(const LabelledRows& rows, const LabelScores& scores);

// The calibration of a task fitted on its valid set, with the threshold that it asks for; one that
// cannot be had is told.
v1::Calibration Calibrate(const v1::Task& task, const LabelledRows& valid,
                          const LabelScores& scores, TrainingObserver& observer);

// Adds the figures before and after on the rows of `dataset`.
void MeasureCalibration(const std::string& dataset, const LabelledRows& rows,
                        const LabelScores& scores, v1::Calibration& calibration);

// Each target token is guessed given the right ones before it, and the guesses are compared with
// the target as strings. Classes: the strings that occur. Loss: mean over batches of eight rows, in
// the order of the dataset, of the mean cross-entropy over the batch's target tokens. With
// `padding` the targets of a batch are filled with that token up to the longest, and it counts as
// the others do.
absl::StatusOr<v1::Evaluation> EvaluateTeacherForced(
    const T5& model, const LabelledRows& rows, const LabelTrie& labels, const Tokenizer& tokenizer,
    std::optional<int32_t> padding, const StopSignal& stop, ProgressReporter& progress);

}  // namespace tasuki
