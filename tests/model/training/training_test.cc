#include "model/training/training.h"

#include <ATen/ATen.h>

#include <cmath>
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
#include "model/recipe/recipe.h"
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
  void OnProgress(const v1::Progress& p) override { progress.push_back(p); }
  void OnEvaluation(const v1::Evaluation& e) override {
    evaluations.push_back(e);
    if (on_evaluation) on_evaluation();
  }
  void OnCheckpoint(int64_t step, bool best) override {
    checkpoints.emplace_back(step, best);
    if (on_checkpoint) on_checkpoint(step);
  }
  void OnMessage(v1::TrainingJobEvent::Message::Severity, const std::string& text) override {
    messages.push_back(text);
  }

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
    return Train(job, places_, {.threads = 1}, stop_, recorder_);
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

TEST_F(TrainTest, PretrainsToTheSameBytesAfterAStop) {
  v1::TrainingJob job = PretrainingJob();
  job.mutable_pretraining()->mutable_recipe()->set_checkpoint_every_steps(13);
  job.mutable_pretraining()->mutable_recipe()->set_evaluate_every_steps(30);
  const std::string bytes = Uninterrupted(job);
  StopAtFirstCheckpointAndResume(job, 13);
  EXPECT_TRUE(Bytes("result/model.safetensors") == bytes);
}

TEST_F(TrainTest, ResumesWithTheThreadsItBeganWith) {
  v1::TrainingJob job = Job();
  recorder_.on_checkpoint = [this](int64_t) { stop_.request = StopSignal::kStop; };
  ASSERT_TRUE(Train(job, places_, {.threads = 1}, stop_, recorder_).ok());
  recorder_ = Recorder();
  stop_.request = StopSignal::kNone;
  ASSERT_TRUE(Train(job, places_, {.threads = 2}, stop_, recorder_).ok());
  internal::CheckpointManifest manifest;
  ASSERT_TRUE(ReadJson(folder_ / "checkpoints/step-30/checkpoint.json", manifest).ok());
  EXPECT_EQ(manifest.state().threads(), 1);
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
