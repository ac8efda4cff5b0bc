#include "model/training/evaluation.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/text/figures.h"
#include "model/training/loss.h"

namespace tasuki {
namespace {

constexpr int64_t kLossBatchRows = 8;

std::vector<int32_t> RowTokens(const LabelledRows& rows, int64_t row) {
  const absl::Span<const int32_t> tokens = rows.inputs[row];
  return {tokens.begin(), tokens.end()};
}

}  // namespace

absl::StatusOr<LabelScores> ScoreLabels(const T5Scorer& scorer, const LabelledRows& rows,
                                        const LabelTrie& labels, const StopSignal& stop,
                                        ProgressReporter& progress) {
  const int64_t count = rows.inputs.size();
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return rows.inputs[a].size() > rows.inputs[b].size();
  });

  LabelScores all(count);
  for (int64_t begin = 0, end; begin < count; begin = end) {
    if (stop.requested()) return absl::CancelledError("stopped");
    std::vector<std::vector<int32_t>> texts;
    int64_t tokens = 0;
    for (end = begin; end < count; ++end) {
      tokens += static_cast<int64_t>(rows.inputs[order[end]].size());
      if (end > begin && tokens > kTokensAtOnce) break;
      texts.push_back(RowTokens(rows, order[end]));
    }
    std::vector<T5Scorer::Input> inputs;
    for (const std::vector<int32_t>& text : texts) inputs.push_back({&text, &labels});
    std::vector<std::vector<float>> scores = scorer.Score(inputs);
    for (int64_t i = begin; i < end; ++i) all[order[i]] = std::move(scores[i - begin]);
    progress.AddRows(end - begin);
  }
  return all;
}

v1::Evaluation EvaluateScores(const LabelledRows& rows, const LabelScores& scores) {
  std::vector<int> predicted;
  double loss = 0;
  for (size_t row = 0; row < scores.size(); ++row) {
    const std::vector<float>& of_row = scores[row];
    predicted.push_back(
        static_cast<int>(std::max_element(of_row.begin(), of_row.end()) - of_row.begin()));
    loss -= of_row[rows.labels[row]];
  }
  v1::Evaluation evaluation;
  evaluation.set_method(v1::Evaluation::LABEL);
  evaluation.set_loss(loss / static_cast<double>(scores.size()));
  evaluation.set_truncated_row_count(rows.truncated_count);
  FillFigures(rows.labels, predicted, static_cast<int>(scores.front().size()), evaluation);
  return evaluation;
}

absl::StatusOr<v1::Evaluation> EvaluateLabels(const T5Scorer& scorer, const LabelledRows& rows,
                                              const LabelTrie& labels, const StopSignal& stop,
                                              ProgressReporter& progress) {
  const absl::StatusOr<LabelScores> scores = ScoreLabels(scorer, rows, labels, stop, progress);
  if (!scores.ok()) return scores.status();
  return EvaluateScores(rows, *scores);
}

absl::StatusOr<v1::Evaluation> EvaluateTeacherForced(
    const T5& model, const LabelledRows& rows, const LabelTrie& labels, const Tokenizer& tokenizer,
    std::optional<int32_t> padding, const StopSignal& stop, ProgressReporter& progress) {
  at::NoGradGuard no_grad;
  const int64_t count = rows.inputs.size();
  std::vector<std::string> gold, predicted;
  double loss_sum = 0;
  int64_t loss_batches = 0;
  for (int64_t begin = 0, end; begin < count; begin = end) {
    if (stop.requested()) return absl::CancelledError("stopped");
    // Several batches of eight in one pass: nothing is padded, so they do not see each other.
    std::vector<std::vector<int32_t>> inputs, targets;
    int64_t tokens = 0;
    for (end = begin; end < count; ++end) {
      if ((end - begin) % kLossBatchRows == 0 && tokens > kTokensAtOnce) break;
      tokens += static_cast<int64_t>(rows.inputs[end].size());
      inputs.push_back(RowTokens(rows, end));
      targets.push_back(labels.target(rows.labels[end]));
    }
    for (size_t first = 0; padding && first < targets.size(); first += kLossBatchRows) {
      PadTargets(absl::MakeSpan(targets).subspan(first, kLossBatchRows), *padding);
    }
    const at::Tensor logits = TargetLogits(model, inputs, targets, /*dropout=*/{});
    const at::Tensor losses = TokenLosses(logits, targets).cpu();
    const at::Tensor guesses = logits.argmax(-1).cpu();
    int64_t position = 0, batch_begin = 0;
    for (int64_t i = 0; i < end - begin; ++i) {
      const int64_t* guess = guesses.const_data_ptr<int64_t>() + position;
      const int64_t length = static_cast<int64_t>(targets[i].size());
      predicted.push_back(tokenizer.Decode(std::vector<int32_t>(guess, guess + length)));
      gold.push_back(tokenizer.Decode(targets[i]));
      position += length;
      if ((i + 1) % kLossBatchRows == 0 || i + 1 == end - begin) {
        loss_sum += losses.slice(0, batch_begin, position).mean().item<double>();
        ++loss_batches;
        batch_begin = position;
      }
    }
    progress.AddRows(end - begin);
  }

  v1::Evaluation evaluation;
  evaluation.set_method(v1::Evaluation::TEACHER_FORCED);
  evaluation.set_loss(loss_sum / loss_batches);
  evaluation.set_truncated_row_count(rows.truncated_count);
  FillFigures(gold, predicted, evaluation);
  return evaluation;
}

v1::Calibration Calibrate(const v1::Task& task, const LabelledRows& valid,
                          const LabelScores& scores, TrainingObserver& observer) {
  v1::Calibration calibration;
  calibration.set_task(task.name());
  calibration.set_calibrated(true);
  const double temperature = FitTemperature(scores, valid.labels);
  calibration.set_temperature(temperature);
  calibration.set_valid_row_count(valid.inputs.size());
  calibration.set_valid_nll_before(MeanNll(scores, valid.labels, 1));
  calibration.set_valid_nll_after(MeanNll(scores, valid.labels, temperature));
  if (!task.has_abstain_precision()) return calibration;
  const std::optional<AbstainThreshold> chosen =
      ChooseThreshold(scores, valid.labels, temperature, task.abstain_precision());
  if (!chosen.has_value()) {
    observer.OnMessage(
        v1::TrainingJobEvent::Message::WARNING,
        absl::StrCat("Task ", task.name(), ": no threshold has the abstain_precision of ",
                     task.abstain_precision(), " on ", task.valid_dataset(),
                     "; the version answers every text."));
    return calibration;
  }
  calibration.set_abstain_threshold(chosen->threshold);
  calibration.set_abstain_valid_precision(chosen->precision);
  calibration.set_abstain_valid_coverage(chosen->coverage);
  return calibration;
}

void MeasureCalibration(const std::string& dataset, const LabelledRows& rows,
                        const LabelScores& scores, v1::Calibration& calibration) {
  calibration.set_dataset(dataset);
  *calibration.mutable_before() = CalibrationFigures(scores, rows.labels, 1);
  *calibration.mutable_after() = CalibrationFigures(scores, rows.labels, calibration.temperature());
}

}  // namespace tasuki
