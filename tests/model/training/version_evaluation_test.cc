#include "model/training/version_evaluation.h"

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "model/files/model_directory.h"
#include "tests/model/training/tiny_base.h"

namespace tasuki {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

class Recorder : public TrainingObserver {
 public:
  void OnProgress(const v1::Progress& p) override {
    if (phases.empty() || phases.back() != p.phase()) phases.push_back(p.phase());
    if (on_progress) on_progress(p);
  }
  void OnEvaluation(const v1::Evaluation& e) override {
    evaluations.push_back(e);
    if (on_evaluation) on_evaluation();
  }
  void OnCheckpoint(int64_t, bool, absl::Duration) override {
    ADD_FAILURE() << "there is nothing to resume";
  }
  void OnMessage(v1::TrainingJobEvent::Message::Severity, const std::string& text) override {
    messages.push_back(text);
  }

  std::function<void(const v1::Progress&)> on_progress;
  std::function<void()> on_evaluation;
  std::vector<v1::Progress::Phase> phases;
  std::vector<v1::Evaluation> evaluations;
  std::vector<std::string> messages;
};

class EvaluateVersionTest : public ::testing::Test {
 protected:
  EvaluateVersionTest() {
    places_.base_directory = folder_ / "version";
    places_.checkpoints_directory = folder_ / "checkpoints";
    places_.result_directory = folder_ / "result";
    places_.predictions_file = folder_ / "predictions.jsonl";
    const std::unique_ptr<Tokenizer> tokenizer = MakeTokenizer(folder_ / "tokenizer");
    const T5Config config = TinyConfig(*tokenizer);
    // A version whose task "mood" is calibrated.
    internal::ModelManifest manifest;
    *manifest.add_tasks() = MoodTask();
    v1::Calibration& calibration = *manifest.add_calibrations();
    calibration.set_task("mood");
    calibration.set_calibrated(true);
    calibration.set_temperature(2);
    EXPECT_TRUE(WriteResult(places_.base_directory, T5(config, InitialWeights(config, 1)),
                            folder_ / "tokenizer", manifest)
                    .ok());
    const std::vector<v1::Example> rows = Opinions();
    AddDataset("new", {rows.begin(), rows.begin() + 20});
    AddDataset("other", {rows.begin() + 20, rows.begin() + 25});
  }

  void AddDataset(const std::string& name, const std::vector<v1::Example>& rows) {
    WriteExamples(folder_ / name, rows);
    places_.datasets["datasets/" + name] = folder_ / name;
  }

  static v1::TrainingJob Job() {
    v1::TrainingJob job;
    v1::EvaluationJob& work = *job.mutable_evaluation();
    work.set_max_input_tokens(64);
    work.set_write_predictions(true);
    for (const auto& [name, dataset] :
         {std::pair("mood", "datasets/new"), std::pair("feeling", "datasets/other")}) {
      v1::Task& task = *work.add_tasks();
      task = MoodTask();
      task.set_name(name);
      task.clear_train_dataset();
      task.clear_weight();
      task.set_test_dataset(dataset);
    }
    return job;
  }

  absl::StatusOr<TrainingOutcome> Run(const v1::TrainingJob& job) {
    return Train(job, places_, {.threads = 1}, stop_, recorder_);
  }

  std::vector<nlohmann::json> Predictions() {
    std::vector<nlohmann::json> lines;
    const std::string text = ReadFile(places_.predictions_file).value();
    for (const auto line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
      lines.push_back(nlohmann::json::parse(line));
    }
    return lines;
  }

  Folder folder_;
  TrainingPlaces places_;
  StopSignal stop_;
  Recorder recorder_;
};

TEST_F(EvaluateVersionTest, JudgesEveryTaskBothWaysAndPublishesNothing) {
  const absl::StatusOr<TrainingOutcome> outcome = Run(Job());
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_TRUE(outcome->finished);
  EXPECT_EQ(outcome->best_step, 0);
  ASSERT_EQ(outcome->evaluations.size(), 4);
  EXPECT_EQ(outcome->evaluations[0].task(), "mood");
  EXPECT_EQ(outcome->evaluations[0].method(), v1::Evaluation::LABEL);
  EXPECT_EQ(outcome->evaluations[0].split(), v1::Evaluation::TEST);
  EXPECT_EQ(outcome->evaluations[0].row_count(), 20);
  EXPECT_EQ(outcome->evaluations[1].method(), v1::Evaluation::TEACHER_FORCED);
  EXPECT_EQ(outcome->evaluations[2].task(), "feeling");
  EXPECT_EQ(outcome->evaluations[2].row_count(), 5);
  EXPECT_EQ(recorder_.evaluations.size(), 4);
  EXPECT_THAT(recorder_.phases,
              ::testing::ElementsAre(v1::Progress::PREPARING, v1::Progress::EVALUATING));
  EXPECT_TRUE(absl::IsNotFound(ReadManifest(places_.result_directory).status()));
}

TEST_F(EvaluateVersionTest, TellsHowManyRowsThereAre) {
  v1::Progress newest;
  recorder_.on_progress = [&](const v1::Progress& progress) { newest = progress; };
  int left = 4;
  recorder_.on_evaluation = [&] {  // between the tasks
    if (--left == 2) std::this_thread::sleep_for(std::chrono::milliseconds(1001));
  };
  ASSERT_TRUE(Run(Job()).ok());
  EXPECT_EQ(newest.evaluated_rows(), 2 * 20 + 5);
  EXPECT_EQ(newest.total_rows(), 2 * (20 + 5));
}

TEST_F(EvaluateVersionTest, MeasuresTheCalibrationOfTheVersion) {
  const absl::StatusOr<TrainingOutcome> outcome = Run(Job());
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  ASSERT_EQ(outcome->calibrations.size(), 2);
  const v1::Calibration& own = outcome->calibrations[0];
  EXPECT_TRUE(own.calibrated());
  EXPECT_EQ(own.temperature(), 2);
  EXPECT_EQ(own.dataset(), "datasets/new");
  EXPECT_NEAR(own.before().nll(), outcome->evaluations[0].loss(), 1e-6);
  EXPECT_NE(own.before().nll(), own.after().nll());
  // Of another task the version knows nothing.
  EXPECT_FALSE(outcome->calibrations[1].calibrated());
  EXPECT_EQ(outcome->calibrations[1].temperature(), 1);
}

TEST_F(EvaluateVersionTest, OtherLabelsOrAnotherPrefixAreNotCalibrated) {
  v1::TrainingJob job = Job();
  job.mutable_evaluation()->mutable_tasks(0)->set_prefix("the ");
  EXPECT_FALSE(Run(job)->calibrations[0].calibrated());
  job = Job();
  v1::Task& task = *job.mutable_evaluation()->mutable_tasks(0);
  task.mutable_labels(0)->set_target_text("bad");
  task.mutable_labels(1)->set_target_text("good");
  EXPECT_FALSE(Run(job)->calibrations[0].calibrated());
  // Other values of the dataset mean the same labels.
  job = Job();
  job.mutable_evaluation()->mutable_tasks(0)->mutable_labels(0)->add_values("more");
  EXPECT_TRUE(Run(job)->calibrations[0].calibrated());
}

TEST_F(EvaluateVersionTest, KeepsEveryAnswer) {
  const absl::StatusOr<TrainingOutcome> outcome = Run(Job());
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  const std::vector<nlohmann::json> lines = Predictions();
  ASSERT_EQ(lines.size(), 25);
  EXPECT_EQ(lines[0]["task"], "mood");
  EXPECT_EQ(lines[0]["row"], 1);
  EXPECT_EQ(lines[19]["row"], 20);
  EXPECT_EQ(lines[20]["task"], "feeling");
  EXPECT_EQ(lines[20]["row"], 1);
  int right = 0;
  double nll = 0;
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(lines[i]["label"], i % 2 == 0 ? "good" : "bad");
    EXPECT_EQ(lines[i]["truncated"], false);
    const double good = lines[i]["probabilities"]["good"], bad = lines[i]["probabilities"]["bad"];
    EXPECT_NEAR(good + bad, 1, 1e-12);
    EXPECT_EQ(lines[i]["predicted"], good >= bad ? "good" : "bad");
    right += lines[i]["predicted"] == lines[i]["label"];
    nll -= std::log(i % 2 == 0 ? good : bad);
  }
  EXPECT_NEAR(outcome->evaluations[0].accuracy(), right / 20.0, 1e-12);
  EXPECT_NEAR(outcome->calibrations[0].after().nll(), nll / 20, 1e-9);
}

TEST_F(EvaluateVersionTest, SaysWhichRowsWereCut) {
  std::vector<v1::Example> rows(2);
  rows[0].set_text("the");
  rows[0].set_label("yes");
  for (int i = 0; i < 100; ++i) rows[1].mutable_text()->append("the soup ");
  rows[1].set_label("no");
  AddDataset("new", rows);
  v1::TrainingJob job = Job();
  job.mutable_evaluation()->mutable_tasks()->RemoveLast();
  ASSERT_TRUE(Run(job).ok());
  EXPECT_EQ(Predictions()[0]["truncated"], false);
  EXPECT_EQ(Predictions()[1]["truncated"], true);
  EXPECT_THAT(recorder_.messages, ::testing::Contains(HasSubstr("1 of 2 texts are longer")));
}

TEST_F(EvaluateVersionTest, KeepsNothingWhereItIsNotAsked) {
  v1::TrainingJob job = Job();
  job.mutable_evaluation()->set_write_predictions(false);
  ASSERT_TRUE(Run(job).ok());
  EXPECT_TRUE(absl::IsNotFound(ReadFile(places_.predictions_file).status()));
}

TEST_F(EvaluateVersionTest, StopsAsToldAndLeavesNothing) {
  recorder_.on_evaluation = [this] { stop_.request = StopSignal::kStop; };
  const absl::StatusOr<TrainingOutcome> outcome = Run(Job());
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_FALSE(outcome->finished);
  EXPECT_TRUE(absl::IsNotFound(ReadFile(places_.predictions_file).status()));
}

TEST_F(EvaluateVersionTest, NamesALabelThatItDoesNotKnow) {
  std::vector<v1::Example> rows = {Opinions()[0]};
  rows[0].set_label("perhaps");
  AddDataset("other", rows);
  const absl::Status status = Run(Job()).status();
  EXPECT_EQ(ReasonOf(status), v1::LABEL_UNKNOWN);
  EXPECT_THAT(status.message(), HasSubstr("datasets/other, row 1: label \"perhaps\""));
  EXPECT_THAT(recorder_.evaluations, IsEmpty()) << "nothing was computed";
}

}  // namespace
}  // namespace tasuki
