// What a step of fine-tuning learns from, and what a checkpoint is chosen by.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <chrono>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/recipe/recipe.h"
#include "model/training/work.h"
#include "tests/model/training/tiny_base.h"

namespace tasuki {
namespace {

using ::testing::Each;

class FineTuningTest : public ::testing::Test {
 protected:
  FineTuningTest() {
    places_.base_directory = folder_ / "base";
    MakeBase(folder_, places_.base_directory);
    // 12 rows: 9 are "yes".
    std::vector<v1::Example> rows = Opinions();
    rows.resize(12);
    for (size_t i = 0; i < rows.size(); ++i) rows[i].set_label(i < 9 ? "yes" : "no");
    WriteExamples(folder_ / "train", rows);
    places_.datasets["datasets/train"] = folder_ / "train";
    job_.set_model("models/mood");
    job_.mutable_fine_tuning()->set_base_model_version("models/base/versions/1");
    for (const auto& [name, weight] : {std::pair("mood", 0.7), std::pair("tone", 0.3)}) {
      v1::Task& task = *job_.mutable_fine_tuning()->add_tasks() = MoodTask();
      task.set_name(name);
      task.set_weight(weight);
      task.set_prefix(name == std::string("tone") ? "at noon " : "");
      // Targets of different lengths.
      task.mutable_labels(1)->set_target_text("bad bad bad");
    }
  }

  v1::Recipe& recipe() { return *job_.mutable_fine_tuning()->mutable_recipe(); }
  v1::Task& task(int i) { return *job_.mutable_fine_tuning()->mutable_tasks(i); }

  std::unique_ptr<Work> Prepare() {
    Faults faults;
    ResolveJob(job_, faults);
    EXPECT_TRUE(faults.empty()) << faults.ToStatus();
    StopSignal stop;
    Silence silence;
    auto work = PrepareFineTuning(job_.fine_tuning(), places_, stop, silence);
    EXPECT_TRUE(work.ok()) << work.status();
    return *std::move(work);
  }

  Folder folder_;
  TrainingPlaces places_;
  v1::TrainingJob job_;
};

// transformers' loss over labels padded with 0 that are not masked: the mean over batch x longest
// target, times the weight of the first example's task.
TEST_F(FineTuningTest, RepeatsTheLossOfTheStudy) {
  recipe().set_preset(v1::Recipe::STUDY);
  const auto work = Prepare();
  const auto tokenizer = *Tokenizer::Load(places_.base_directory + "/spiece.model");
  const std::vector<int32_t> tone = *tokenizer->Encode("at noon");
  const T5 model(work->config(), *work->FirstWeights());
  std::set<float> factors;
  for (int64_t step = 0; step < work->steps_per_epoch(); ++step) {
    const Batch batch = work->BatchAt(step);
    const auto& first = batch.inputs.front();
    const bool is_tone = std::equal(tone.begin(), tone.end(), first.begin());
    const double weight = is_tone ? 0.3 : 0.7;
    factors.insert(static_cast<float>(weight));
    EXPECT_THAT(batch.weights, Each(static_cast<float>(weight)));
    double sum = 0;
    size_t positions = 0;
    for (int64_t i = 0; i < batch.size(); ++i) {
      std::vector<int32_t> target = batch.targets[i];
      EXPECT_EQ(target.size(), batch.targets[0].size());
      at::NoGradGuard no_grad;
      const at::Tensor log_p = TargetLogits(model, {batch.inputs[i]}, {target}, {}).log_softmax(-1);
      for (size_t t = 0; t < target.size(); ++t, ++positions) {
        sum -= log_p[static_cast<int64_t>(t)][target[t]].item<double>();
      }
    }
    EXPECT_NEAR(Backward(model, batch, {}), weight * sum / static_cast<double>(positions), 1e-5);
  }
  EXPECT_EQ(factors.size(), 2) << "both tasks came first once";
}

TEST_F(FineTuningTest, PadsNothingAndWeighsEachExampleByItsOwnTaskOtherwise) {
  recipe().set_batch_size(24);
  const Batch batch = Prepare()->BatchAt(0);
  std::set<size_t> lengths;
  for (const auto& target : batch.targets) lengths.insert(target.size());
  EXPECT_EQ(lengths.size(), 2);
  EXPECT_EQ(std::count(batch.weights.begin(), batch.weights.end(), 0.7f), 12);
  EXPECT_EQ(std::count(batch.weights.begin(), batch.weights.end(), 0.3f), 12);
}

// Of 12 rows 9 are "good": balanced factors are 12 / (2 · 9) and 12 / (2 · 3). Given weights 1 and
// 3 have the mean (9 · 1 + 3 · 3) / 12 = 1.5 over the rows.
TEST_F(FineTuningTest, WeighsLabelsSoThatTheMeanOverTheRowsIsOne) {
  recipe().set_batch_size(24);
  task(0).set_class_weights(v1::Task::BALANCED);
  task(0).set_weight(1);
  task(1).mutable_labels(1)->set_weight(3);
  task(1).set_weight(3);
  std::map<float, int> counts;
  for (const float weight : Prepare()->BatchAt(0).weights) ++counts[weight];
  EXPECT_EQ(counts, (std::map<float, int>{{12 / 18.0f, 9}, {2, 9 + 3}, {6, 3}}));
}

TEST_F(FineTuningTest, ChoosesByMeanByWorstAndByWeightedMean) {
  v1::Evaluation mood, tone;
  mood.set_task("mood");
  mood.set_macro_f1(0.9);
  mood.set_loss(0.2);
  tone.set_task("tone");
  tone.set_macro_f1(0.5);
  tone.set_loss(0.6);
  EXPECT_DOUBLE_EQ(*Prepare()->Figure({mood, tone}), 0.7);
  recipe().set_selection_over_tasks(v1::Recipe::WORST);
  EXPECT_DOUBLE_EQ(*Prepare()->Figure({mood, tone}), 0.5);
  recipe().set_selection_over_tasks(v1::Recipe::WEIGHTED);
  EXPECT_DOUBLE_EQ(*Prepare()->Figure({mood, tone}), 0.7 * 0.9 + 0.3 * 0.5);
  recipe().set_selection(v1::Recipe::LOSS);
  recipe().set_selection_over_tasks(v1::Recipe::WORST);
  EXPECT_DOUBLE_EQ(*Prepare()->Figure({mood, tone}), -0.6);
}

TEST_F(FineTuningTest, JudgesTeacherForcedIfThatIsTheHabit) {
  WriteExamples(folder_ / "valid", Opinions());
  places_.datasets["datasets/valid"] = folder_ / "valid";
  task(0).set_valid_dataset("datasets/valid");
  recipe().set_preset(v1::Recipe::STUDY);
  auto work = Prepare();
  const T5 model(work->config(), *work->FirstWeights());
  Silence observer;
  ProgressReporter progress(observer);
  const auto padded = work->Evaluate(model, {}, progress);
  ASSERT_TRUE(padded.ok()) << padded.status();
  ASSERT_EQ(padded->size(), 1);
  EXPECT_EQ(padded->front().method(), v1::Evaluation::TEACHER_FORCED);
  recipe().mutable_habits()->set_count_padding(false);
  EXPECT_NE(Prepare()->Evaluate(model, {}, progress)->front().loss(), padded->front().loss());
}

TEST_F(FineTuningTest, SaysHowManyRowsThereAreToEvaluate) {
  const std::vector<v1::Example> rows = Opinions();
  for (const auto& [name, count] : {std::pair("valid", 7), std::pair("test", 5)}) {
    WriteExamples(folder_ / name, {rows.begin(), rows.begin() + count});
    places_.datasets[absl::StrCat("datasets/", name)] = folder_ / name;
  }
  task(0).set_valid_dataset("datasets/valid");
  auto without_test = Prepare();
  task(0).set_test_dataset("datasets/test");
  auto work = Prepare();
  const T5 model(work->config(), *work->FirstWeights());
  class Recorder : public Silence {
   public:
    void OnProgress(const v1::Progress& progress) override { newest = progress; }
    v1::Progress newest;
  };
  const auto rows_of = [&](const auto& evaluate) {
    Recorder observer;
    ProgressReporter progress(observer);
    progress.Enter(v1::Progress::EVALUATING);
    EXPECT_TRUE(evaluate(observer, progress).ok());
    std::this_thread::sleep_for(std::chrono::milliseconds(1001));
    progress.AddRows(0);
    EXPECT_EQ(observer.newest.evaluated_rows(), observer.newest.total_rows());
    return observer.newest.total_rows();
  };
  EXPECT_EQ(rows_of([&](Recorder&, ProgressReporter& progress) {
              return work->Evaluate(model, {}, progress);
            }),
            7);
  EXPECT_EQ(rows_of([&](Recorder& observer, ProgressReporter& progress) {
              return work->EvaluateFinally(model, {}, observer, progress);
            }),
            7 + 2 * 5);
  EXPECT_EQ(rows_of([&](Recorder& observer, ProgressReporter& progress) {
              return without_test->EvaluateFinally(model, {}, observer, progress);
            }),
            2 * 7);
}

}  // namespace
}  // namespace tasuki
