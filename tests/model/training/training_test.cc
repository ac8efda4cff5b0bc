#include "model/training/training.h"

#include <ATen/ATen.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <new>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "model/files/model_directory.h"
#include "model/files/safetensors.h"
#include "model/recipe/recipe.h"
#include "model/t5/adapter.h"
#include "model/t5/device.h"
#include "model/t5/kernels.h"
#include "tests/model/training/tiny_base.h"

namespace tasuki {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class Recorder : public TrainingObserver {
 public:
  void OnProgress(const v1::Progress& p) override {
    progress.push_back(p);
    if (on_progress) on_progress(p);
  }
  void OnEvaluation(const v1::Evaluation& e) override {
    evaluations.push_back(e);
    if (on_evaluation) on_evaluation();
  }
  void OnCheckpoint(int64_t step, bool best, absl::Duration) override {
    checkpoints.emplace_back(step, best);
    if (on_checkpoint) on_checkpoint(step);
  }
  void OnMessage(v1::TrainingJobEvent::Message::Severity, const std::string& text) override {
    messages.push_back(text);
  }

  std::function<void(const v1::Progress&)> on_progress;
  std::function<void(int64_t)> on_checkpoint;
  std::function<void()> on_evaluation;
  std::vector<v1::Progress> progress;
  std::vector<v1::Evaluation> evaluations;
  std::vector<std::pair<int64_t, bool>> checkpoints;
  std::vector<std::string> messages;
};

class TrainTest : public ::testing::Test {
 protected:
  TrainTest() {
    places_.base_directory = folder_ / "base";
    places_.checkpoints_directory = folder_ / "checkpoints";
    places_.result_directory = folder_ / "result";
    places_.training_job = "trainingJobs/t1";
    MakeBase(folder_, places_.base_directory);
    const std::vector<v1::Example> rows = Opinions();
    AddDataset("train", {rows.begin(), rows.begin() + 48});
    AddDataset("valid", {rows.begin() + 48, rows.begin() + 64});
    AddDataset("test", {rows.begin() + 64, rows.begin() + 96});
  }

  void AddDataset(const std::string& name, const std::vector<v1::Example>& rows) {
    WriteExamples(folder_ / name, rows);
    places_.datasets["datasets/" + name] = folder_ / name;
  }

  // 30 steps of 8 examples in 5 epochs, with dropout.
  static v1::TrainingJob Job() {
    v1::TrainingJob job;
    job.set_model("models/mood");
    v1::FineTuning& work = *job.mutable_fine_tuning();
    work.set_base_model_version("models/base/versions/1");
    *work.add_tasks() = MoodTask();
    work.mutable_tasks(0)->set_valid_dataset("datasets/valid");
    work.mutable_tasks(0)->set_test_dataset("datasets/test");
    work.mutable_recipe()->set_epochs(5);
    work.mutable_recipe()->set_checkpoint_every_steps(4);
    Resolve(job);
    return job;
  }

  static v1::TrainingJob PretrainingJob() {
    v1::TrainingJob job;
    job.set_model("models/base");
    v1::Pretraining& work = *job.mutable_pretraining();
    work.add_datasets("datasets/train");
    work.add_datasets("datasets/test");
    work.mutable_size()->set_d_model(32);
    work.mutable_size()->set_d_kv(16);
    work.mutable_size()->set_d_ff(64);
    work.mutable_size()->set_num_heads(2);
    work.mutable_size()->set_num_layers(1);
    work.mutable_size()->set_num_decoder_layers(1);
    work.set_vocabulary_size(200);
    work.add_required_texts("良い");
    work.mutable_recipe()->set_steps(30);
    work.mutable_recipe()->set_dropout(0.1);
    Resolve(job);
    return job;
  }

  static void Resolve(v1::TrainingJob& job) {
    Faults faults;
    ResolveJob(job, faults);
    ASSERT_TRUE(faults.empty()) << faults.ToStatus();
  }

  absl::StatusOr<TrainingOutcome> Run(const v1::TrainingJob& job) {
    return Train(job, places_, {.threads = 1, .device = device_}, stop_, recorder_);
  }

  // The job's weights when nothing interrupts it.
  std::string Uninterrupted(const v1::TrainingJob& job) {
    const TrainingPlaces places = places_;
    places_.checkpoints_directory = folder_ / "other-checkpoints";
    places_.result_directory = folder_ / "other-result";
    const absl::StatusOr<TrainingOutcome> outcome = Run(job);
    EXPECT_TRUE(outcome.ok() && outcome->finished) << outcome.status();
    places_ = places;
    recorder_ = Recorder();
    return Bytes("other-result/model.safetensors");
  }

  std::string Bytes(const std::string& file) {
    absl::StatusOr<std::string> bytes = ReadFile(folder_ / file);
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    return bytes.ok() ? *bytes : "";
  }

  void Spoil(const std::string& file) {
    std::string bytes = Bytes(file);
    bytes[bytes.size() / 2] ^= 1;
    ASSERT_TRUE(WriteFile(folder_ / file, bytes).ok());
  }

  // Stops the training after its first checkpoint, and lets it go on.
  void StopAtFirstCheckpointAndResume(const v1::TrainingJob& job, int64_t step) {
    recorder_.on_checkpoint = [this](int64_t) { stop_.request = StopSignal::kStop; };
    absl::StatusOr<TrainingOutcome> outcome = Run(job);
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_FALSE(outcome->finished);
    EXPECT_EQ(outcome->step, step);
    EXPECT_FALSE(std::filesystem::exists(places_.result_directory));
    recorder_ = Recorder();
    stop_.request = StopSignal::kNone;
    outcome = Run(job);
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_TRUE(outcome->finished);
    EXPECT_THAT(recorder_.messages, Contains(HasSubstr("Goes on from")));
  }

  Folder folder_;
  TrainingPlaces places_;
  std::string device_ = "cpu";
  StopSignal stop_;
  Recorder recorder_;
};

TEST_F(TrainTest, LearnsSixteenRowsByHeart) {
  const std::vector<v1::Example> rows = Opinions();
  AddDataset("few", {rows.begin(), rows.begin() + 16});
  v1::TrainingJob job = Job();
  v1::Task& task = *job.mutable_fine_tuning()->mutable_tasks(0);
  task.set_train_dataset("datasets/few");
  task.set_valid_dataset("datasets/few");
  task.set_test_dataset("");
  job.mutable_fine_tuning()->mutable_recipe()->set_epochs(60);
  job.mutable_fine_tuning()->mutable_recipe()->set_optimizer(v1::Recipe::ADAFACTOR);
  job.mutable_fine_tuning()->mutable_recipe()->set_learning_rate(1e-2);
  job.mutable_fine_tuning()->mutable_recipe()->set_evaluate_every_steps(60);

  const absl::StatusOr<TrainingOutcome> outcome = Run(job);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  ASSERT_EQ(outcome->evaluations.size(), 2);
  for (const v1::Evaluation& evaluation : outcome->evaluations) {
    EXPECT_EQ(evaluation.accuracy(), 1) << evaluation.DebugString();
    EXPECT_EQ(evaluation.split(), v1::Evaluation::VALID);
    EXPECT_EQ(evaluation.step(), outcome->best_step);
  }
}

// Skipped where there is no GPU; bench/gpu runs it where there is one.
TEST_F(TrainTest, OnAGpuGoesOnFromItsCheckpointAndOnACpuFromThatOfAGpu) {
  device_ = "cuda:0";
  if (const auto gpu = OpenDevice(device_); !gpu.ok()) GTEST_SKIP() << gpu.status().message();
  StopAtFirstCheckpointAndResume(Job(), 4);
  EXPECT_TRUE(std::filesystem::exists(places_.result_directory + "/model.safetensors"));
  EXPECT_THAT(recorder_.messages, Not(Contains(HasSubstr("another device"))));

  places_.checkpoints_directory = folder_ / "other-checkpoints";
  places_.result_directory = folder_ / "other-result";
  recorder_.on_checkpoint = [this](int64_t) { stop_.request = StopSignal::kStop; };
  ASSERT_TRUE(Run(Job()).ok());
  device_ = "cpu";
  stop_.request = StopSignal::kNone;
  recorder_.on_checkpoint = nullptr;
  const absl::StatusOr<TrainingOutcome> outcome = Run(Job());
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_TRUE(outcome->finished);
  EXPECT_THAT(recorder_.messages, Contains(HasSubstr("began on another device")));
}

TEST_F(TrainTest, RefusesAGpuThatIsNotThere) {
  device_ = "cuda:99";
  EXPECT_TRUE(absl::IsFailedPrecondition(Run(Job()).status()));
}

TEST_F(TrainTest, LeavesACompleteModelDirectory) {
  const v1::TrainingJob job = Job();
  const absl::StatusOr<TrainingOutcome> outcome = Run(job);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_TRUE(outcome->finished);
  EXPECT_EQ(outcome->step, 30);

  const absl::StatusOr<internal::ModelManifest> manifest = ReadManifest(places_.result_directory);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_TRUE(
      CheckFiles(places_.result_directory, {manifest->files().begin(), manifest->files().end()})
          .ok());
  EXPECT_EQ(manifest->training_job(), "trainingJobs/t1");
  EXPECT_EQ(manifest->base_model_version(), "models/base/versions/1");
  EXPECT_EQ(manifest->tasks(0).SerializeAsString(), job.fine_tuning().tasks(0).SerializeAsString());
  EXPECT_EQ(manifest->max_input_tokens(), 512);
  ASSERT_EQ(manifest->evaluations_size(), 2);
  EXPECT_EQ(manifest->evaluations(0).split(), v1::Evaluation::TEST);
  EXPECT_EQ(manifest->evaluations(0).row_count(), 32);
  EXPECT_THAT(*ListDirectory(places_.result_directory),
              ElementsAre("config.json", "generation_config.json", "model.safetensors",
                          "special_tokens_map.json", "spiece.model", "tasuki.json",
                          "tokenizer_config.json"));
  EXPECT_EQ(Bytes("result/spiece.model"), Bytes("base/spiece.model"));
}

TEST_F(TrainTest, CalibratesThePublishedWeightsOnTheValidSet) {
  v1::TrainingJob job = Job();
  job.mutable_fine_tuning()->mutable_tasks(0)->set_abstain_precision(.5);
  const absl::StatusOr<TrainingOutcome> outcome = Run(job);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  ASSERT_EQ(outcome->calibrations.size(), 1);
  const v1::Calibration& calibration = outcome->calibrations[0];
  EXPECT_EQ(calibration.task(), "mood");
  EXPECT_TRUE(calibration.calibrated());
  EXPECT_GE(calibration.temperature(), .05);
  EXPECT_LE(calibration.temperature(), 20);
  EXPECT_EQ(calibration.valid_row_count(), 16);
  EXPECT_LE(calibration.valid_nll_after(), calibration.valid_nll_before());
  EXPECT_TRUE(calibration.has_abstain_threshold());
  EXPECT_GE(calibration.abstain_valid_precision(), .5);
  EXPECT_EQ(calibration.dataset(), "datasets/test");
  // Before: the loss of the evaluation by labels.
  EXPECT_NEAR(calibration.before().nll(), outcome->evaluations[0].loss(), 1e-6);
  int64_t rows = 0;
  for (const auto& bin : calibration.after().bins()) rows += bin.row_count();
  EXPECT_EQ(rows, 32);

  const absl::StatusOr<internal::ModelManifest> manifest = ReadManifest(places_.result_directory);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  ASSERT_EQ(manifest->calibrations_size(), 1);
  EXPECT_EQ(manifest->calibrations(0).temperature(), calibration.temperature());
  // An attempt that finds the result tells the same.
  const absl::StatusOr<TrainingOutcome> again = Run(job);
  ASSERT_TRUE(again.ok()) << again.status();
  ASSERT_EQ(again->calibrations.size(), 1);
  EXPECT_EQ(again->calibrations[0].DebugString(), calibration.DebugString());
}

TEST_F(TrainTest, IsNotCalibratedWithoutAValidSet) {
  v1::TrainingJob job = Job();
  job.mutable_fine_tuning()->mutable_tasks(0)->clear_valid_dataset();
  const absl::StatusOr<TrainingOutcome> outcome = Run(job);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  ASSERT_EQ(outcome->calibrations.size(), 1);
  EXPECT_FALSE(outcome->calibrations[0].calibrated());
  EXPECT_EQ(outcome->calibrations[0].temperature(), 1);
  EXPECT_EQ(outcome->calibrations[0].before().nll(), outcome->calibrations[0].after().nll());
}

TEST_F(TrainTest, SaysIfNoThresholdHasTheWantedPrecision) {
  v1::TrainingJob job = Job();
  job.mutable_fine_tuning()->mutable_recipe()->set_steps(1);
  job.mutable_fine_tuning()->mutable_recipe()->clear_epochs();
  // Every valid row is labelled wrong once and right once: no threshold can do better than a half.
  std::vector<v1::Example> rows;
  for (v1::Example row : {Opinions()[0], Opinions()[1]}) {
    for (const char* label : {"yes", "no"}) {
      row.set_label(label);
      rows.push_back(row);
    }
  }
  AddDataset("valid", rows);
  job.mutable_fine_tuning()->mutable_tasks(0)->set_abstain_precision(.9);
  const absl::StatusOr<TrainingOutcome> outcome = Run(job);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_FALSE(outcome->calibrations[0].has_abstain_threshold());
  EXPECT_THAT(recorder_.messages,
              Contains(HasSubstr("no threshold has the abstain_precision of 0.9")));
}

TEST_F(TrainTest, TellsOfPhasesEvaluationsAndCheckpoints) {
  ASSERT_TRUE(Run(Job()).ok());
  std::set<v1::Progress::Phase> phases;
  for (const v1::Progress& progress : recorder_.progress) phases.insert(progress.phase());
  EXPECT_EQ(phases.size(), 5);
  EXPECT_EQ(recorder_.progress.back().step(), 30);
  EXPECT_EQ(recorder_.progress.back().total_steps(), 30);
  EXPECT_EQ(recorder_.progress.back().epoch(), 5);
  // Each fourth step, and each sixth with its evaluation.
  std::vector<int64_t> steps;
  for (const auto& [step, best] : recorder_.checkpoints) steps.push_back(step);
  EXPECT_THAT(steps, ElementsAre(4, 6, 8, 12, 16, 18, 20, 24, 28, 30));
  EXPECT_TRUE(recorder_.checkpoints[1].second);
  ASSERT_EQ(recorder_.evaluations.size(), 5 + 2);
  EXPECT_EQ(recorder_.evaluations[0].step(), 6);
  EXPECT_EQ(recorder_.evaluations[0].method(), v1::Evaluation::LABEL);
}

TEST_F(TrainTest, PublishesTheBestStepAndNotTheLast) {
  v1::TrainingJob job = Job();
  // A rate that ruins what was learnt makes an early evaluation the best.
  job.mutable_fine_tuning()->mutable_recipe()->set_learning_rate(0.3);
  job.mutable_fine_tuning()->mutable_recipe()->set_selection(v1::Recipe::LOSS);
  const absl::StatusOr<TrainingOutcome> outcome = Run(job);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  int64_t best = 0;
  double least = 1e30;
  for (size_t i = 0; i < 5; ++i) {
    const v1::Evaluation& evaluation = recorder_.evaluations[i];
    if (evaluation.loss() < least) {
      least = evaluation.loss();
      best = evaluation.step();
    }
  }
  ASSERT_NE(best, 30) << "the last step is the best: the test shows nothing";
  EXPECT_EQ(outcome->best_step, best);
  EXPECT_EQ(Bytes("result/model.safetensors").size(), Bytes("base/model.safetensors").size());
  // The published weights are those of the best step's checkpoint.
  const T5Config config = *T5Config::Read(folder_ / "result/config.json");
  const WeightMap published = *ReadWeights(folder_ / "result", config);
  const WeightMap kept = *ReadWeights(absl::StrCat(folder_ / "checkpoints/step-", best), config);
  for (const auto& [name, weight] : published) EXPECT_TRUE(at::equal(weight, kept.at(name)));
}

TEST_F(TrainTest, EndsWithTheSameBytesAfterAStopWithEitherOptimizer) {
  for (const auto optimizer : {v1::Recipe::ADAMW, v1::Recipe::ADAFACTOR}) {
    v1::TrainingJob job = Job();
    job.mutable_fine_tuning()->mutable_recipe()->set_optimizer(optimizer);
    job.mutable_fine_tuning()->mutable_recipe()->set_checkpoint_every_steps(13);
    job.mutable_fine_tuning()->mutable_recipe()->set_evaluate_every_steps(30);
    const std::string bytes = Uninterrupted(job);
    StopAtFirstCheckpointAndResume(job, 13);
    EXPECT_TRUE(Bytes("result/model.safetensors") == bytes);
    EXPECT_NE(bytes, Bytes("base/model.safetensors"));
    for (const char* directory : {"checkpoints", "other-checkpoints", "result", "other-result"}) {
      std::filesystem::remove_all(folder_ / directory);
    }
  }
}

TEST_F(TrainTest, EndsWithTheSameBytesAfterAStopWithMuchOfTheRecipe) {
  v1::TrainingJob job = Job();
  job.mutable_fine_tuning()->mutable_tasks(0)->set_class_weights(v1::Task::BALANCED);
  v1::Recipe& recipe = *job.mutable_fine_tuning()->mutable_recipe();
  recipe.clear_batch_size();
  recipe.set_batch_tokens(60);
  recipe.set_gradient_accumulation_steps(2);
  recipe.set_label_smoothing(0.1);
  recipe.set_selection_over_tasks(v1::Recipe::WORST);
  recipe.mutable_early_stopping()->set_patience(4);
  recipe.mutable_time_limit()->set_seconds(3600);
  recipe.mutable_habits()->set_count_padding(true);
  const std::string bytes = Uninterrupted(job);
  StopAtFirstCheckpointAndResume(job, 4);
  EXPECT_TRUE(Bytes("result/model.safetensors") == bytes);
}

TEST_F(TrainTest, TrainsInBf16ToTheSameBytesAfterAStop) {
  if (!CanDo(BestKernels(), Precision::kBf16)) GTEST_SKIP() << "not on this machine";
  v1::TrainingJob job = Job();
  const std::string in_fp32 = Uninterrupted(job);
  std::filesystem::remove_all(folder_ / "checkpoints");
  std::filesystem::remove_all(folder_ / "result");
  job.mutable_fine_tuning()->mutable_recipe()->set_precision(v1::Recipe::BF16);
  const std::string bytes = Uninterrupted(job);
  EXPECT_FALSE(bytes == in_fp32);
  StopAtFirstCheckpointAndResume(job, 4);
  EXPECT_TRUE(Bytes("result/model.safetensors") == bytes);
}

TEST_F(TrainTest, GoesOnFromACheckpointOfFormatOne) {
  const v1::TrainingJob job = Job();
  const std::string bytes = Uninterrupted(job);
  recorder_.on_checkpoint = [this](int64_t) { stop_.request = StopSignal::kStop; };
  ASSERT_TRUE(Run(job).ok());
  const std::string path = folder_ / "checkpoints/step-4/checkpoint.json";
  internal::CheckpointManifest manifest;
  ASSERT_TRUE(ReadJson(path, manifest).ok());
  manifest.set_format_version(1);
  manifest.mutable_state()->clear_tokens_at_once();
  manifest.mutable_state()->clear_training_seconds();
  ASSERT_TRUE(WriteJson(path, manifest).ok());
  stop_.request = StopSignal::kNone;
  recorder_ = Recorder();
  ASSERT_TRUE(Run(job).ok());
  EXPECT_THAT(recorder_.messages, Contains(HasSubstr("Goes on from the checkpoint of step 4")));
  EXPECT_TRUE(Bytes("result/model.safetensors") == bytes);
}

TEST_F(TrainTest, PretrainsToTheSameBytesAfterAStop) {
  v1::TrainingJob job = PretrainingJob();
  job.mutable_pretraining()->mutable_recipe()->set_checkpoint_every_steps(13);
  job.mutable_pretraining()->mutable_recipe()->set_evaluate_every_steps(30);
  const std::string bytes = Uninterrupted(job);
  StopAtFirstCheckpointAndResume(job, 13);
  EXPECT_TRUE(Bytes("result/model.safetensors") == bytes);
}

TEST_F(TrainTest, ResumesWithTheThreadsAndKernelsItBeganWith) {
  v1::TrainingJob job = Job();
  recorder_.on_checkpoint = [this](int64_t) { stop_.request = StopSignal::kStop; };
  ASSERT_TRUE(Train(job, places_, {.threads = 1, .kernels = "portable"}, stop_, recorder_).ok());
  recorder_ = Recorder();
  stop_.request = StopSignal::kNone;
  ASSERT_TRUE(Train(job, places_, {.threads = 2}, stop_, recorder_).ok());
  internal::CheckpointManifest manifest;
  ASSERT_TRUE(ReadJson(folder_ / "checkpoints/step-30/checkpoint.json", manifest).ok());
  EXPECT_EQ(manifest.state().threads(), 1);
  EXPECT_EQ(manifest.state().kernels(), "portable");
  EXPECT_STREQ(BestKernels().name, "portable");
  EXPECT_THAT(recorder_.messages, Not(Contains(HasSubstr("kernels"))));
}

TEST_F(TrainTest, SaysThatItsKernelsAreNotThoseItBeganWith) {
  v1::TrainingJob job = Job();
  recorder_.on_checkpoint = [this](int64_t) { stop_.request = StopSignal::kStop; };
  ASSERT_TRUE(Train(job, places_, {.threads = 1}, stop_, recorder_).ok());
  const std::string best = AvailableKernels().front()->name;
  for (const auto& step : std::filesystem::directory_iterator(folder_ / "checkpoints")) {
    internal::CheckpointManifest manifest;
    ASSERT_TRUE(ReadJson(step.path() / "checkpoint.json", manifest).ok());
    EXPECT_EQ(manifest.state().kernels(), best);
    manifest.mutable_state()->set_kernels("those of another machine");
    ASSERT_TRUE(WriteJson(step.path() / "checkpoint.json", manifest).ok());
  }
  recorder_ = Recorder();
  stop_.request = StopSignal::kNone;
  ASSERT_TRUE(Train(job, places_, {.threads = 1}, stop_, recorder_).ok());
  EXPECT_THAT(recorder_.messages, Contains(HasSubstr("kernels those of another machine")));
}

TEST_F(TrainTest, MakesUpForAnEvaluationThatAStopCutShort) {
  v1::TrainingJob job = Job();
  *job.mutable_fine_tuning()->add_tasks() = job.fine_tuning().tasks(0);
  job.mutable_fine_tuning()->mutable_tasks(1)->set_name("again");
  job.mutable_fine_tuning()->mutable_recipe()->set_checkpoint_every_steps(0);
  const std::string bytes = Uninterrupted(job);
  // 12 steps an epoch. The signal comes while the first evaluation is made.
  struct Impatient : Recorder {
    void OnProgress(const v1::Progress& p) override {
      if (p.phase() == v1::Progress::EVALUATING) stop->request = StopSignal::kStop;
    }
    StopSignal* stop;
  } impatient;
  impatient.stop = &stop_;
  absl::StatusOr<TrainingOutcome> outcome = Train(job, places_, {.threads = 1}, stop_, impatient);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->step, 12);
  EXPECT_THAT(impatient.evaluations, IsEmpty());
  EXPECT_THAT(impatient.checkpoints, ElementsAre(std::pair<int64_t, bool>(12, false)));

  stop_.request = StopSignal::kNone;
  outcome = Run(job);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  ASSERT_EQ(recorder_.evaluations.size(), 5 * 2 + 2 * 2);
  EXPECT_EQ(recorder_.evaluations[0].step(), 12);
  EXPECT_TRUE(Bytes("result/model.safetensors") == bytes);
}

TEST_F(TrainTest, FallsBackToTheCheckpointBeforeABrokenOne) {
  const v1::TrainingJob job = Job();
  const std::string bytes = Uninterrupted(job);
  recorder_.on_checkpoint = [this](int64_t step) {
    if (step == 12) stop_.request = StopSignal::kAbandon;
  };
  ASSERT_TRUE(Run(job).ok());
  Spoil("checkpoints/step-12/optimizer.safetensors");
  recorder_ = Recorder();
  stop_.request = StopSignal::kNone;
  const absl::StatusOr<TrainingOutcome> outcome = Run(job);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_THAT(recorder_.messages, Contains(AllOf(HasSubstr("step-12"), HasSubstr("passed over"))));
  EXPECT_THAT(recorder_.messages, Contains(HasSubstr("of step 8")));
  EXPECT_TRUE(Bytes("result/model.safetensors") == bytes);
}

TEST_F(TrainTest, AbandonsWithoutACheckpoint) {
  stop_.request = StopSignal::kAbandon;
  const absl::StatusOr<TrainingOutcome> outcome = Run(Job());
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_FALSE(outcome->finished);
  EXPECT_THAT(recorder_.checkpoints, IsEmpty());
}

TEST_F(TrainTest, FinishesFromAResultThatIsThereAlready) {
  const v1::TrainingJob job = Job();
  const absl::StatusOr<TrainingOutcome> first = Run(job);
  ASSERT_TRUE(first.ok()) << first.status();
  recorder_ = Recorder();
  const absl::StatusOr<TrainingOutcome> second = Run(job);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_TRUE(second->finished);
  EXPECT_EQ(second->best_step, first->best_step);
  EXPECT_EQ(second->step, 30);
  EXPECT_EQ(second->evaluations.size(), 2);
  EXPECT_THAT(recorder_.evaluations, IsEmpty());

  // One that is not as it was written is made again.
  Spoil("result/model.safetensors");
  ASSERT_TRUE(Run(job).ok());
  const absl::StatusOr<internal::ModelManifest> manifest = ReadManifest(places_.result_directory);
  EXPECT_TRUE(
      CheckFiles(places_.result_directory, {manifest->files().begin(), manifest->files().end()})
          .ok());
}

TEST_F(TrainTest, EndsWhenTheLossIsNoNumberAndKeepsTheLastGoodCheckpoint) {
  v1::TrainingJob job = Job();
  v1::Recipe& recipe = *job.mutable_fine_tuning()->mutable_recipe();
  recipe.set_learning_rate(1e30);
  recipe.set_warmup_steps(1);  // the first step changes nothing
  recipe.set_checkpoint_every_steps(1);
  const absl::Status status = Run(job).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange) << status;
  EXPECT_EQ(ReasonOf(status), v1::NON_FINITE_LOSS);
  EXPECT_THAT(std::string(status.message()), HasSubstr("step "));
  EXPECT_TRUE(std::filesystem::exists(folder_ / "checkpoints/step-1/checkpoint.json"));
  EXPECT_FALSE(std::filesystem::exists(places_.result_directory));
}

TEST_F(TrainTest, WritesACheckpointFromBeforeTheStepThatIsNoNumber) {
  v1::TrainingJob job = Job();
  v1::Recipe& recipe = *job.mutable_fine_tuning()->mutable_recipe();
  recipe.set_learning_rate(1e30);
  recipe.set_warmup_steps(1);  // the first step changes nothing, the second one ruins everything
  recipe.set_checkpoint_every_steps(0);
  const absl::Status status = Run(job).status();
  EXPECT_EQ(ReasonOf(status), v1::NON_FINITE_LOSS) << status;
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("step 3: "), HasSubstr("rows mood ")));
  ASSERT_THAT(recorder_.checkpoints, ElementsAre(std::pair<int64_t, bool>(2, false)));
  const T5Config config = *T5Config::Read(folder_ / "base/config.json");
  EXPECT_TRUE(ReadWeights(folder_ / "checkpoints/step-2", config).ok());
  // A retry meets it again, and neither loses nor writes anything.
  EXPECT_EQ(Run(job).status(), status);
  EXPECT_THAT(recorder_.messages, Contains(HasSubstr("Goes on from the checkpoint of step 2")));
  EXPECT_EQ(recorder_.checkpoints.size(), 1);
}

TEST_F(TrainTest, AccumulatesToTheBytesOfTheBigBatch) {
  v1::TrainingJob job = Job();
  v1::Recipe& recipe = *job.mutable_fine_tuning()->mutable_recipe();
  recipe.set_batch_size(16);
  const std::string bytes = Uninterrupted(job);
  recipe.set_batch_size(4);
  recipe.set_gradient_accumulation_steps(4);
  ASSERT_TRUE(Run(job).ok());
  EXPECT_EQ(recorder_.progress.back().total_steps(), 15);
  EXPECT_TRUE(Bytes("result/model.safetensors") == bytes);
}

TEST_F(TrainTest, LeavesFrozenWeightsAsTheyWere) {
  for (const auto optimizer : {v1::Recipe::ADAMW, v1::Recipe::ADAFACTOR}) {
    v1::TrainingJob job = Job();
    v1::Recipe& recipe = *job.mutable_fine_tuning()->mutable_recipe();
    recipe.set_optimizer(optimizer);
    recipe.set_weight_decay(0.1);
    recipe.set_freeze_embeddings(true);
    recipe.set_freeze_encoder(true);
    recipe.set_checkpoint_every_steps(13);
    const std::string bytes = Uninterrupted(job);
    StopAtFirstCheckpointAndResume(job, 6);
    EXPECT_TRUE(Bytes("result/model.safetensors") == bytes);
    EXPECT_THAT(Bytes("checkpoints/step-30/optimizer.safetensors"),
                Not(HasSubstr("encoder.block")));
    const T5Config config = *T5Config::Read(folder_ / "base/config.json");
    const WeightMap before = *ReadWeights(folder_ / "base", config);
    const WeightMap after = *ReadWeights(folder_ / "result", config);
    for (const auto& [name, weight] : after) {
      EXPECT_EQ(at::equal(weight, before.at(name)),
                name == "shared.weight" || name.rfind("encoder.", 0) == 0)
          << name;
    }
    for (const char* directory : {"checkpoints", "other-checkpoints", "result", "other-result"}) {
      std::filesystem::remove_all(folder_ / directory);
    }
  }
}

TEST_F(TrainTest, TrainsAnAdapterToTheSameBytesAfterAStopAndPublishesItMerged) {
  v1::TrainingJob job = Job();
  job.mutable_fine_tuning()->mutable_recipe()->clear_learning_rate();
  job.mutable_fine_tuning()->mutable_lora()->set_dropout(.1);
  Resolve(job);
  job.mutable_fine_tuning()->mutable_recipe()->set_checkpoint_every_steps(13);
  job.mutable_fine_tuning()->mutable_recipe()->set_evaluate_every_steps(30);
  const std::string bytes = Uninterrupted(job);
  StopAtFirstCheckpointAndResume(job, 13);
  EXPECT_TRUE(Bytes("result/model.safetensors") == bytes);
  EXPECT_TRUE(Bytes("result/adapter/adapter_model.safetensors") ==
              Bytes("other-result/adapter/adapter_model.safetensors"));

  // The checkpoint has the adapter alone.
  const T5Config config = *T5Config::Read(folder_ / "base/config.json");
  Adapter adapter = InitialAdapter(config, job.fine_tuning().lora(), 12);
  const auto checkpoint = *SafetensorsFile::Open(folder_ / "checkpoints/step-30/model.safetensors");
  const auto published =
      *SafetensorsFile::Open(folder_ / "result/adapter/adapter_model.safetensors");
  ASSERT_EQ(checkpoint->tensors().size(), adapter.weights.size());
  ASSERT_EQ(published->tensors().size(), adapter.weights.size());
  for (auto& [name, weight] : adapter.weights) {
    const TensorEntry& kept = checkpoint->tensors().at(name);
    const TensorEntry& entry = published->tensors().at("base_model.model." + name);
    EXPECT_EQ(std::memcmp(kept.data, entry.data, kept.size_bytes), 0) << name;
    std::memcpy(weight.mutable_data_ptr(), entry.data, entry.size_bytes);
  }
  // What is published is the base with the adapter merged into q and v.
  const WeightMap base = *ReadWeights(folder_ / "base", config);
  const WeightMap expected = Merge(base, adapter);
  const WeightMap merged = *ReadWeights(folder_ / "result", config);
  for (const auto& [name, weight] : merged) {
    EXPECT_TRUE(at::equal(weight, expected.at(name))) << name;
    EXPECT_EQ(at::equal(weight, base.at(name)),
              !name.ends_with(".q.weight") && !name.ends_with(".v.weight"))
        << name;
  }
  const auto manifest = ReadManifest(places_.result_directory);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->lora().DebugString(), job.fine_tuning().lora().DebugString());
  EXPECT_EQ(manifest->base_model_version(), "models/base/versions/1");
  EXPECT_EQ(manifest->parameter_count(), ReadManifest(folder_ / "base")->parameter_count());
  EXPECT_TRUE(
      CheckFiles(places_.result_directory, {manifest->files().begin(), manifest->files().end()})
          .ok());
  EXPECT_THAT(Bytes("result/adapter/adapter_config.json"), HasSubstr("\"base@1\""));
}

TEST_F(TrainTest, JudgesAndPublishesTheBestAdapter) {
  v1::TrainingJob job = Job();
  v1::Lora& lora = *job.mutable_fine_tuning()->mutable_lora();
  for (const char* module : {"q", "k", "v", "o", "wi", "wo"}) lora.add_target_modules(module);
  Resolve(job);
  // A rate that ruins what was learnt makes an early evaluation the best.
  job.mutable_fine_tuning()->mutable_recipe()->set_learning_rate(1);
  job.mutable_fine_tuning()->mutable_recipe()->set_selection(v1::Recipe::LOSS);
  const absl::StatusOr<TrainingOutcome> outcome = Run(job);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  ASSERT_NE(outcome->best_step, 30) << "the last step is the best: the test shows nothing";
  std::set<double> losses;
  for (size_t i = 0; i < 5; ++i) losses.insert(recorder_.evaluations[i].loss());
  EXPECT_EQ(losses.size(), 5) << "evaluations do not see the adapter";
  const auto best = *SafetensorsFile::Open(
      absl::StrCat(folder_ / "checkpoints/step-", outcome->best_step, "/model.safetensors"));
  const auto published =
      *SafetensorsFile::Open(folder_ / "result/adapter/adapter_model.safetensors");
  for (const auto& [name, entry] : best->tensors()) {
    const TensorEntry& other = published->tensors().at("base_model.model." + name);
    EXPECT_EQ(std::memcmp(entry.data, other.data, entry.size_bytes), 0) << name;
  }
}

TEST_F(TrainTest, EvaluatesEverySecondEpoch) {
  v1::TrainingJob job = Job();
  job.mutable_fine_tuning()->mutable_recipe()->set_evaluate_every_epochs(2);
  ASSERT_TRUE(Run(job).ok());
  std::vector<int64_t> steps;
  for (const auto& evaluation : recorder_.evaluations) {
    if (evaluation.split() == v1::Evaluation::VALID) steps.push_back(evaluation.step());
  }
  EXPECT_THAT(steps, ElementsAre(12, 24, 30));
}

// Learns, then a rate that is too high ruins it: losses fall and rise.
TEST_F(TrainTest, StopsEarlyAtTheRightEvaluationThoughItWasResumed) {
  v1::TrainingJob job = Job();
  v1::Recipe& recipe = *job.mutable_fine_tuning()->mutable_recipe();
  recipe.set_epochs(20);
  recipe.set_learning_rate(0.3);
  recipe.set_selection(v1::Recipe::LOSS);
  recipe.set_checkpoint_every_steps(0);
  recipe.mutable_early_stopping()->set_patience(3);
  recipe.mutable_early_stopping()->set_min_delta(0.01);
  places_.checkpoints_directory = folder_ / "other-checkpoints";
  places_.result_directory = folder_ / "other-result";
  const absl::StatusOr<TrainingOutcome> whole = Run(job);
  ASSERT_TRUE(whole.ok()) << whole.status();
  double gain = 1e30, best = 1e30;
  int64_t without = 0, best_step = 0, expected = 0;
  for (const v1::Evaluation& evaluation : recorder_.evaluations) {
    if (evaluation.split() != v1::Evaluation::VALID) continue;
    ASSERT_EQ(expected, 0) << "it went on";
    without = evaluation.loss() < gain - 0.01 ? 0 : without + 1;
    if (without == 0) gain = evaluation.loss();
    if (evaluation.loss() < best) best_step = evaluation.step();
    best = std::min(best, evaluation.loss());
    if (without == 3) expected = evaluation.step();
  }
  ASSERT_LT(expected, 120) << "it was never without a gain: the test shows nothing";
  EXPECT_EQ(whole->step, expected);
  EXPECT_EQ(whole->best_step, best_step);
  EXPECT_THAT(recorder_.messages, Contains(HasSubstr("3 evaluations brought no gain")));

  places_.checkpoints_directory = folder_ / "checkpoints";
  places_.result_directory = folder_ / "result";
  for (bool finished = false; !finished;) {  // an attempt for each evaluation
    recorder_ = Recorder();
    stop_.request = StopSignal::kNone;
    recorder_.on_checkpoint = [this](int64_t) { stop_.request = StopSignal::kStop; };
    const absl::StatusOr<TrainingOutcome> part = Run(job);
    ASSERT_TRUE(part.ok()) << part.status();
    if (part->step == expected) {
      stop_.request = StopSignal::kNone;
      recorder_.on_checkpoint = nullptr;
      const absl::StatusOr<TrainingOutcome> end = Run(job);
      ASSERT_TRUE(end.ok()) << end.status();
      EXPECT_EQ(end->step, expected);
      finished = end->finished;
      ASSERT_TRUE(finished);
    }
  }
  EXPECT_TRUE(Bytes("result/model.safetensors") == Bytes("other-result/model.safetensors"));
}

TEST_F(TrainTest, EndsAtItsTimeLimitOverAllAttempts) {
  v1::TrainingJob job = Job();
  job.mutable_fine_tuning()->mutable_recipe()->mutable_time_limit()->set_seconds(3600);
  recorder_.on_checkpoint = [this](int64_t) { stop_.request = StopSignal::kStop; };
  ASSERT_EQ(Run(job)->step, 4);
  internal::CheckpointManifest manifest;
  const std::string path = folder_ / "checkpoints/step-4/checkpoint.json";
  ASSERT_TRUE(ReadJson(path, manifest).ok());
  EXPECT_GT(manifest.state().training_seconds(), 0);
  manifest.mutable_state()->set_training_seconds(3600);
  ASSERT_TRUE(WriteJson(path, manifest).ok());
  stop_.request = StopSignal::kNone;
  recorder_.on_checkpoint = nullptr;
  const absl::StatusOr<TrainingOutcome> outcome = Run(job);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_TRUE(outcome->finished);
  EXPECT_EQ(outcome->step, 4);
  EXPECT_EQ(outcome->best_step, 4);
  EXPECT_THAT(recorder_.messages,
              Contains("The training ends after step 4 of 30: its time limit of 3600 s is over."));
}

TEST_F(TrainTest, FinishesAsAskedWithTheBestSoFar) {
  recorder_.on_checkpoint = [this](int64_t step) {
    if (step == 8) stop_.request = StopSignal::kFinish;
  };
  const absl::StatusOr<TrainingOutcome> outcome = Run(Job());
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_TRUE(outcome->finished);
  EXPECT_EQ(outcome->step, 9);
  EXPECT_TRUE(outcome->best_step == 6 || outcome->best_step == 9) << outcome->best_step;
  EXPECT_EQ(outcome->evaluations.size(), 2);
  EXPECT_THAT(recorder_.messages,
              Contains(HasSubstr("after step 9 of 30: it was asked to finish")));
}

TEST_F(TrainTest, TakesAStepBeforeItFinishes) {
  stop_.request = StopSignal::kFinish;
  const absl::StatusOr<TrainingOutcome> outcome = Run(Job());
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->step, 1);
}

// No tensor may be larger than so many bytes.
class Scarcity : public c10::Allocator {
 public:
  explicit Scarcity(size_t limit) : limit_(limit), plenty_(c10::GetAllocator(c10::kCPU)) {
    c10::SetAllocator(c10::kCPU, this, 100);
  }
  ~Scarcity() override { c10::SetAllocator(c10::kCPU, plenty_, 100); }
  c10::DataPtr allocate(size_t size) override {
    if (scarce && size > limit_) throw std::bad_alloc();
    return plenty_->allocate(size);
  }
  void copy_data(void* to, const void* from, size_t size) const override {
    default_copy_data(to, from, size);
  }
  bool scarce = false;

 private:
  const size_t limit_;
  c10::Allocator* const plenty_;
};

TEST_F(TrainTest, TakesLessAtOnceWhenMemoryRunsOutAndResumesWithThat) {
  v1::TrainingJob job = Job();
  job.mutable_fine_tuning()->mutable_recipe()->set_batch_size(48);
  Scarcity scarcity(80'000);  // 312 tokens in the feed-forward layers
  const auto starve = [&] {
    recorder_.on_progress = [&](const v1::Progress& progress) {
      scarcity.scarce =
          progress.phase() == v1::Progress::PREPARING || progress.phase() == v1::Progress::TRAINING;
    };
  };
  starve();
  ASSERT_TRUE(Run(job).ok());
  EXPECT_THAT(recorder_.messages, Contains(HasSubstr("1024 input tokens instead of 2048")));
  EXPECT_EQ(recorder_.checkpoints[0].first, 0) << "a resume has to know";
  EXPECT_EQ(recorder_.progress.back().total_steps(), 5);
  const std::string bytes = Bytes("result/model.safetensors");
  internal::CheckpointManifest manifest;
  ASSERT_TRUE(ReadJson(folder_ / "checkpoints/step-5/checkpoint.json", manifest).ok());
  EXPECT_LE(manifest.state().tokens_at_once(), 256);

  std::filesystem::remove_all(folder_ / "checkpoints");
  std::filesystem::remove_all(folder_ / "result");
  recorder_ = Recorder();
  starve();
  recorder_.on_checkpoint = [this](int64_t) { stop_.request = StopSignal::kStop; };
  EXPECT_EQ(Run(job)->step, 0);
  recorder_ = Recorder();  // there is enough memory now
  scarcity.scarce = false;
  stop_.request = StopSignal::kNone;
  ASSERT_TRUE(Run(job).ok());
  EXPECT_THAT(recorder_.messages, Not(Contains(HasSubstr("Memory is short"))));
  EXPECT_TRUE(Bytes("result/model.safetensors") == bytes);
}

TEST_F(TrainTest, BeginsWithHalfAfterADeathForLackOfMemory) {
  recorder_.on_checkpoint = [this](int64_t) { stop_.request = StopSignal::kStop; };
  for (const int64_t tokens : {1024, 512, 256, 128, 64}) {
    stop_.request = StopSignal::kNone;
    ASSERT_TRUE(
        Train(Job(), places_, {.threads = 1, .out_of_memory = true}, stop_, recorder_).ok());
    internal::CheckpointManifest manifest;
    ASSERT_TRUE(ReadJson(folder_ / "checkpoints/step-0/checkpoint.json", manifest).ok());
    EXPECT_EQ(manifest.state().tokens_at_once(), tokens);
  }
}

TEST_F(TrainTest, SaysThatMemoryRanOut) {
  recorder_.on_evaluation = [] { at::empty({int64_t{1} << 48}); };  // LibTorch's own way to say it
  EXPECT_EQ(ReasonOf(Run(Job()).status()), v1::OUT_OF_MEMORY);
  recorder_.on_evaluation = [] { throw std::bad_alloc(); };
  const absl::Status status = Run(Job()).status();
  EXPECT_EQ(ReasonOf(status), v1::OUT_OF_MEMORY);
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("batch_size"));
}

TEST_F(TrainTest, NamesTheRowWhoseLabelTheTaskDoesNotKnow) {
  std::vector<v1::Example> rows = Opinions();
  rows[4].set_label("maybe");
  AddDataset("train", rows);
  const absl::Status status = Run(Job()).status();
  EXPECT_EQ(ReasonOf(status), v1::LABEL_UNKNOWN);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("datasets/train, row 5"),
                                                   HasSubstr("\"maybe\""), HasSubstr("yes, no")));
}

TEST_F(TrainTest, CountsTheTextsThatItCuts) {
  v1::TrainingJob job = Job();
  job.mutable_fine_tuning()->mutable_recipe()->set_max_input_tokens(8);
  ASSERT_TRUE(Run(job).ok());
  EXPECT_THAT(recorder_.messages,
              Contains(AllOf(HasSubstr("datasets/test"), HasSubstr("32 of 32 texts"))));
  EXPECT_EQ(recorder_.evaluations.back().truncated_row_count(), 32);
}

TEST_F(TrainTest, WarnsOfRowsThatSplitsShareAndOfASingleLabel) {
  const std::vector<v1::Example> rows = Opinions();
  std::vector<v1::Example> train(rows.begin(), rows.begin() + 48);
  for (v1::Example& row : train) row.set_label("yes");
  AddDataset("train", train);
  AddDataset("valid", {rows.begin() + 40, rows.begin() + 64});  // 8 of 24 are shared
  v1::TrainingJob job = Job();
  job.mutable_fine_tuning()->mutable_recipe()->clear_epochs();
  job.mutable_fine_tuning()->mutable_recipe()->set_steps(1);
  const StopSignal stop;
  Recorder recorder;
  ASSERT_TRUE(Train(job, places_, {}, stop, recorder).ok());
  EXPECT_THAT(recorder.messages,
              AllOf(Contains(HasSubstr("every row of datasets/train has the label \"good\"")),
                    Contains(HasSubstr("8 of 24 inputs of datasets/valid are in the training "
                                       "rows, too"))));
  for (const v1::Evaluation& evaluation : recorder.evaluations) {
    EXPECT_TRUE(std::isfinite(evaluation.macro_f1()));
  }
}

TEST_F(TrainTest, PretrainingTellsHowManySegmentsAreEvaluated) {
  recorder_.on_progress = [&](const v1::Progress& progress) {
    if (progress.phase() == v1::Progress::EVALUATING && progress.total_rows() == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1001));
    }
  };
  ASSERT_TRUE(Run(PretrainingJob()).ok());
  const auto found =
      std::find_if(recorder_.progress.begin(), recorder_.progress.end(),
                   [](const v1::Progress& progress) { return progress.total_rows() > 0; });
  ASSERT_NE(found, recorder_.progress.end());
  EXPECT_EQ(found->evaluated_rows(), 1);  // of 80 texts one is held out
  EXPECT_EQ(found->total_rows(), 1);
}

TEST_F(TrainTest, PretrainsABaseThatCanBeFineTuned) {
  absl::StatusOr<TrainingOutcome> outcome = Run(PretrainingJob());
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  ASSERT_EQ(outcome->evaluations.size(), 1);
  EXPECT_EQ(outcome->evaluations[0].task(), "");
  EXPECT_LT(outcome->evaluations[0].loss(), 12);
  const T5Config config = *T5Config::Read(folder_ / "result/config.json");
  EXPECT_EQ(config.vocab_size % 128, 0);
  EXPECT_EQ(config.d_model, 32);

  const auto tokenizer = *Tokenizer::Load(folder_ / "result/spiece.model");
  EXPECT_THAT(*tokenizer->Encode("良い"), Not(Contains(tokenizer->unk_id())));
  std::filesystem::rename(folder_ / "result", folder_ / "pretrained");
  places_.base_directory = folder_ / "pretrained";
  places_.checkpoints_directory = folder_ / "more-checkpoints";
  const absl::StatusOr<TrainingOutcome> tuned = Run(Job());
  ASSERT_TRUE(tuned.ok()) << tuned.status();
  EXPECT_TRUE(tuned->finished);
}

}  // namespace
}  // namespace tasuki
