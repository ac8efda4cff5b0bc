// Fine-tuning on labelled tasks: rows in, target texts out, judged on the tasks' own splits.
#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/t5/scorer.h"
#include "model/text/calibration.h"
#include "model/text/label_trie.h"
#include "model/text/tokenizer.h"
#include "model/training/batches.h"
#include "model/training/evaluation.h"
#include "model/training/work.h"

namespace tasuki {
namespace {

struct TaskData {
  v1::Task task;
  LabelTrie labels;
  LabelledRows train, valid, test;
  std::vector<double> factors;  // of the labels, in the loss
};

// Factors of the task's labels: as Task.class_weights says, their mean over the rows being 1.
std::vector<double> FactorsOf(const v1::Task& task, const std::vector<int>& row_labels) {
  std::vector<double> factors, rows(task.labels_size());
  for (const int label : row_labels) ++rows[label];
  double sum = 0;
  for (int i = 0; i < task.labels_size(); ++i) {
    const double weight = task.labels(i).has_weight() ? task.labels(i).weight() : 1;
    const bool balanced = task.class_weights() == v1::Task::BALANCED;
    factors.push_back(balanced && rows[i] > 0 ? weight / rows[i] : weight);
    sum += factors[i] * rows[i];
  }
  for (double& factor : factors) factor *= static_cast<double>(row_labels.size()) / sum;
  return factors;
}

// The figure that a checkpoint is chosen by; more is better.
double SelectionFigure(v1::Recipe::Selection selection, const v1::Evaluation& evaluation) {
  switch (selection) {
    case v1::Recipe::ACCURACY:
      return evaluation.accuracy();
    case v1::Recipe::LOSS:
      return -evaluation.loss();
    default:
      return evaluation.macro_f1();
  }
}

class FineTuningWork : public Work {
 public:
  FineTuningWork(v1::FineTuning job, std::string base, T5Config config,
                 std::unique_ptr<Tokenizer> tokenizer, std::vector<TaskData> tasks)
      : job_(std::move(job)),
        base_directory_(std::move(base)),
        config_(config),
        tokenizer_(std::move(tokenizer)),
        tasks_(std::move(tasks)),
        order_(TrainRows(tasks_), recipe()) {}

  const v1::Recipe& recipe() const override { return job_.recipe(); }
  const T5Config& config() const override { return config_; }
  const std::string& tokenizer_directory() const override { return base_directory_; }
  int64_t steps_per_epoch() const override { return order_.steps_per_epoch(); }
  absl::StatusOr<WeightMap> FirstWeights() const override {
    return ReadWeights(base_directory_, config_);
  }
  const v1::Lora* lora() const override { return job_.has_lora() ? &job_.lora() : nullptr; }

  Batch BatchAt(int64_t step) override {
    Batch batch;
    const absl::Span<const DataOrder::Example> examples = order_.BatchAt(step);
    for (const DataOrder::Example& example : examples) {
      const TaskData& data = tasks_[example.task];
      const TaskData& weighing =
          recipe().habits().first_task_weight() ? tasks_[examples.front().task] : data;
      const absl::Span<const int32_t> input = data.train.inputs[example.row];
      const int label = data.train.labels[example.row];
      batch.inputs.emplace_back(input.begin(), input.end());
      batch.targets.push_back(data.labels.target(label));
      batch.weights.push_back(static_cast<float>(weighing.task.weight() * data.factors[label]));
    }
    if (recipe().habits().count_padding()) {
      PadTargets(absl::MakeSpan(batch.targets), config_.pad_token_id);
    }
    return batch;
  }

  int64_t LongestStep() override { return order_.LongestStep(); }

  std::string DescribeBatch(int64_t step) override {
    std::vector<std::string> rows;
    for (const DataOrder::Example& example : order_.BatchAt(step)) {
      if (rows.size() == 8) {
        rows.push_back("…");
        break;
      }
      rows.push_back(absl::StrCat(tasks_[example.task].task.name(), " ", example.row + 1));
    }
    return absl::StrCat("training rows ", absl::StrJoin(rows, ", "));
  }

  absl::StatusOr<std::vector<v1::Evaluation>> Evaluate(const T5& model, const StopSignal& stop,
                                                       ProgressReporter& progress) const override {
    progress.ExpectRows(SumOfEvaluation(&TokenRows::size));
    std::vector<v1::Evaluation> evaluations;
    const std::unique_ptr<const T5Scorer> scorer = ScorerOf(model);
    for (const TaskData& data : tasks_) {
      if (data.valid.inputs.size() == 0) continue;
      absl::StatusOr<v1::Evaluation> evaluation =
          recipe().habits().teacher_forced()
              ? TeacherForced(model, data.valid, data.labels, stop, progress)
              : EvaluateLabels(*scorer, data.valid, data.labels, stop, progress);
      if (!evaluation.ok()) return evaluation.status();
      evaluation->set_task(data.task.name());
      evaluation->set_split(v1::Evaluation::VALID);
      evaluations.push_back(*std::move(evaluation));
    }
    return evaluations;
  }

  absl::StatusOr<FinalJudgement> EvaluateFinally(const T5& model, const StopSignal& stop,
                                                 TrainingObserver& observer,
                                                 ProgressReporter& progress) const override {
    progress.ExpectRows(SumOfFinalEvaluation(&TokenRows::size));
    FinalJudgement judgement;
    const std::unique_ptr<const T5Scorer> scorer = ScorerOf(model);
    for (const TaskData& data : tasks_) {
      v1::Calibration calibration = CalibrationOf({}, data.task.name());
      LabelScores scores;  // of the rows that are judged: the test set, or else the valid set
      if (data.valid.inputs.size() > 0) {
        absl::StatusOr<LabelScores> valid =
            ScoreLabels(*scorer, data.valid, data.labels, stop, progress);
        if (!valid.ok()) return valid.status();
        calibration = Calibrate(data.task, data.valid, *valid, observer);
        scores = *std::move(valid);
      }
      const bool test = data.test.inputs.size() > 0;
      if (test) {
        absl::StatusOr<LabelScores> of_test =
            ScoreLabels(*scorer, data.test, data.labels, stop, progress);
        if (!of_test.ok()) return of_test.status();
        scores = *std::move(of_test);
        MeasureCalibration(data.task.test_dataset(), data.test, scores, calibration);
      }
      judgement.calibrations.push_back(std::move(calibration));
      if (scores.empty()) continue;

      const LabelledRows& rows = test ? data.test : data.valid;
      for (absl::StatusOr<v1::Evaluation> evaluation :
           {absl::StatusOr<v1::Evaluation>(EvaluateScores(rows, scores)),
            TeacherForced(model, rows, data.labels, stop, progress)}) {
        if (!evaluation.ok()) return evaluation.status();
        evaluation->set_task(data.task.name());
        evaluation->set_split(test ? v1::Evaluation::TEST : v1::Evaluation::VALID);
        judgement.evaluations.push_back(*std::move(evaluation));
      }
    }
    return judgement;
  }

  int64_t evaluation_tokens() const override { return SumOfEvaluation(&TokenRows::tokens); }
  int64_t final_evaluation_tokens() const override {
    return SumOfFinalEvaluation(&TokenRows::tokens);
  }

  std::optional<double> Figure(const std::vector<v1::Evaluation>& evaluations) const override {
    if (evaluations.empty() || recipe().selection() == v1::Recipe::LAST) return std::nullopt;
    double worst = std::numeric_limits<double>::infinity(), sum = 0, weights = 0;
    for (const v1::Evaluation& evaluation : evaluations) {
      const double figure = SelectionFigure(recipe().selection(), evaluation);
      const double weight =
          recipe().selection_over_tasks() == v1::Recipe::WEIGHTED ? WeightOf(evaluation.task()) : 1;
      worst = std::min(worst, figure);
      sum += weight * figure;
      weights += weight;
    }
    return recipe().selection_over_tasks() == v1::Recipe::WORST ? worst : sum / weights;
  }

  internal::ModelManifest Manifest() const override {
    internal::ModelManifest manifest;
    *manifest.mutable_tasks() = job_.tasks();
    manifest.set_max_input_tokens(recipe().max_input_tokens());
    manifest.set_base_model_version(job_.base_model_version());
    if (job_.has_lora()) *manifest.mutable_lora() = job_.lora();
    return manifest;
  }

 private:
  static std::vector<const TokenRows*> TrainRows(const std::vector<TaskData>& tasks) {
    std::vector<const TokenRows*> rows;
    for (const TaskData& data : tasks) rows.push_back(&data.train.inputs);
    return rows;
  }

  // Rows or tokens that Evaluate goes through, and EvaluateFinally.
  int64_t SumOfEvaluation(int64_t (TokenRows::*count)() const) const {
    int64_t sum = 0;
    for (const TaskData& data : tasks_) sum += (data.valid.inputs.*count)();
    return sum;
  }
  int64_t SumOfFinalEvaluation(int64_t (TokenRows::*count)() const) const {
    int64_t sum = 0;  // both splits are scored, one of them is judged by teacher forcing as well
    for (const TaskData& data : tasks_) {
      const int64_t valid = (data.valid.inputs.*count)(), test = (data.test.inputs.*count)();
      sum += valid + test + (test > 0 ? test : valid);
    }
    return sum;
  }

  double WeightOf(const std::string& task) const {
    for (const TaskData& data : tasks_) {
      if (data.task.name() == task) return data.task.weight();
    }
    return 0;
  }

  absl::StatusOr<v1::Evaluation> TeacherForced(const T5& model, const LabelledRows& rows,
                                               const LabelTrie& labels, const StopSignal& stop,
                                               ProgressReporter& progress) const {
    std::optional<int32_t> padding;
    if (recipe().habits().count_padding()) padding = config_.pad_token_id;
    return EvaluateTeacherForced(model, rows, labels, *tokenizer_, padding, stop, progress);
  }

  static std::unique_ptr<const T5Scorer> ScorerOf(const T5& model) {
    return T5Scorer::Make(model.config(), model.Merged());
  }

  const v1::FineTuning job_;
  const std::string base_directory_;
  const T5Config config_;
  const std::unique_ptr<Tokenizer> tokenizer_;
  const std::vector<TaskData> tasks_;
  DataOrder order_;
};

// What the rows of a task show that may not be meant.
void WarnOfRows(const TaskData& data, TrainingObserver& observer) {
  const auto warn = [&](const std::string& text) {
    observer.OnMessage(v1::TrainingJobEvent::Message::WARNING,
                       absl::StrCat("Task ", data.task.name(), ": ", text));
  };
  const std::set<int> labels(data.train.labels.begin(), data.train.labels.end());
  if (labels.size() == 1) {
    warn(absl::StrCat("every row of ", data.task.train_dataset(), " has the label \"",
                      data.task.labels(*labels.begin()).name(), "\"."));
  }
  // Inputs as the model sees them: prefix, normalised, cut. Of the rows that are held back, which
  // are few beside those that are learnt: whether they are among these.
  absl::flat_hash_map<absl::Span<const int32_t>, bool> held_back;
  for (const LabelledRows* rows : {&data.valid, &data.test}) {
    for (int64_t row = 0; row < rows->inputs.size(); ++row) held_back[rows->inputs[row]] = false;
  }
  for (int64_t row = 0; !held_back.empty() && row < data.train.inputs.size(); ++row) {
    const auto found = held_back.find(data.train.inputs[row]);
    if (found != held_back.end()) found->second = true;
  }
  for (const auto& [dataset, rows] : {std::pair(data.task.valid_dataset(), &data.valid),
                                      std::pair(data.task.test_dataset(), &data.test)}) {
    int64_t shared = 0;
    for (int64_t row = 0; row < rows->inputs.size(); ++row) {
      shared += held_back.at(rows->inputs[row]) ? 1 : 0;
    }
    if (shared == 0) continue;
    warn(absl::StrCat(shared, " of ", rows->inputs.size(), " inputs of ", dataset,
                      " are in the training rows, too; its figures are better than those of new "
                      "texts."));
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Work>> PrepareFineTuning(const v1::FineTuning& job,
                                                        const TrainingPlaces& places,
                                                        const StopSignal& stop,
                                                        TrainingObserver& observer) {
  absl::StatusOr<T5Config> config = T5Config::Read(places.base_directory + "/config.json");
  if (!config.ok()) return config.status();
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
      Tokenizer::Load(places.base_directory + "/spiece.model");
  if (!tokenizer.ok()) return tokenizer.status();

  const LabelledRowsReader reader(**tokenizer, job.recipe().max_input_tokens(), places, stop,
                                  observer);
  std::vector<TaskData> tasks;
  for (const v1::Task& task : job.tasks()) {
    absl::StatusOr<LabelTrie> labels = LabelTrie::Build(task, **tokenizer);
    if (!labels.ok()) return labels.status();
    TaskData data{task, *std::move(labels), {}, {}, {}, {}};
    for (auto [dataset, rows] : {std::pair(&task.train_dataset(), &data.train),
                                 std::pair(&task.valid_dataset(), &data.valid),
                                 std::pair(&task.test_dataset(), &data.test)}) {
      if (dataset->empty()) continue;
      absl::StatusOr<LabelledRows> read = reader.Read(task, *dataset);
      if (!read.ok()) return read.status();
      *rows = *std::move(read);
    }
    WarnOfRows(data, observer);
    data.factors = FactorsOf(task, data.train.labels);
    tasks.push_back(std::move(data));
  }
  return std::make_unique<FineTuningWork>(job, places.base_directory, *config,
                                          *std::move(tokenizer), std::move(tasks));
}

}  // namespace tasuki
