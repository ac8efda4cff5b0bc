#include "model/training/evaluation.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <chrono>
#include <cmath>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/training/loss.h"
#include "tests/model/training/tiny_base.h"

namespace tasuki {
namespace {

class EvaluationTest : public ::testing::Test {
 protected:
  EvaluationTest()
      : tokenizer_(MakeTokenizer(folder_ / "tokenizer")),
        labels_(*LabelTrie::Build(MoodTask(), *tokenizer_)),
        model_(TinyConfig(*tokenizer_), InitialWeights(TinyConfig(*tokenizer_), 5)) {
    at::set_num_threads(1);
    for (const v1::Example& example : Opinions()) {
      if (rows_.inputs.size() == 19) break;  // two batches of eight and a rest
      std::vector<int32_t> tokens = *tokenizer_->Encode(example.text());
      tokens.push_back(tokenizer_->eos_id());
      rows_.inputs.Add(tokens);
      rows_.labels.push_back(example.label() == "yes" ? 0 : 1);
    }
    rows_.truncated_count = 3;
  }

  // Logits of one row's target: [target tokens, vocabulary].
  at::Tensor LogitsOf(int64_t row, int label) const {
    at::NoGradGuard no_grad;
    const auto tokens = rows_.inputs[row];
    return TargetLogits(model_, {{tokens.begin(), tokens.end()}}, {labels_.target(label)}, {});
  }

  Folder folder_;
  std::unique_ptr<Tokenizer> tokenizer_;
  LabelTrie labels_;
  T5 model_;
  LabelledRows rows_;
  StopSignal stop_;
  Silence observer_;
  ProgressReporter progress_{observer_};
};

TEST_F(EvaluationTest, TeacherForcedLossIsTheMeanOverBatchesOfEightOfTheTokenMean) {
  const absl::StatusOr<v1::Evaluation> evaluation =
      EvaluateTeacherForced(model_, rows_, labels_, *tokenizer_, std::nullopt, stop_, progress_);
  ASSERT_TRUE(evaluation.ok()) << evaluation.status();

  double batches = 0, losses = 0;
  int64_t tokens = 0, right = 0;
  for (int64_t row = 0; row < rows_.inputs.size(); ++row) {
    const std::vector<int32_t>& target = labels_.target(rows_.labels[row]);
    const at::Tensor logits = LogitsOf(row, rows_.labels[row]);
    std::vector<int32_t> guess;
    for (size_t t = 0; t < target.size(); ++t) {
      const at::Tensor log_p = logits[static_cast<int64_t>(t)].log_softmax(-1);
      losses -= log_p[target[t]].item<double>();
      guess.push_back(static_cast<int32_t>(log_p.argmax().item<int64_t>()));
    }
    tokens += static_cast<int64_t>(target.size());
    right += tokenizer_->Decode(guess) == tokenizer_->Decode(target);
    if (row % 8 == 7 || row + 1 == rows_.inputs.size()) {
      batches += losses / static_cast<double>(tokens);
      losses = 0;
      tokens = 0;
    }
  }
  EXPECT_NEAR(evaluation->loss(), batches / 3, 1e-4);
  EXPECT_NEAR(evaluation->accuracy(), right / 19.0, 1e-9);
  EXPECT_EQ(evaluation->method(), v1::Evaluation::TEACHER_FORCED);
  EXPECT_EQ(evaluation->row_count(), 19);
  EXPECT_EQ(evaluation->truncated_row_count(), 3);
}

TEST_F(EvaluationTest, LabelLossIsTheMeanOfMinusLogPOfTheRightLabel) {
  const auto scorer = T5Scorer::Make(model_.config(), model_.weights());
  const absl::StatusOr<v1::Evaluation> evaluation =
      EvaluateLabels(*scorer, rows_, labels_, stop_, progress_);
  ASSERT_TRUE(evaluation.ok()) << evaluation.status();

  // The two targets differ in their first token, so only the first position decides.
  const int32_t first[] = {labels_.target(0)[0], labels_.target(1)[0]};
  ASSERT_NE(first[0], first[1]);
  double loss = 0;
  int right = 0;
  for (int64_t row = 0; row < rows_.inputs.size(); ++row) {
    const at::Tensor logits = LogitsOf(row, 0)[0];
    const double own = logits[first[rows_.labels[row]]].item<double>();
    const double other = logits[first[1 - rows_.labels[row]]].item<double>();
    loss += std::log1p(std::exp(other - own));
    right += own > other;
  }
  EXPECT_NEAR(evaluation->loss(), loss / 19, 1e-4);
  EXPECT_NEAR(evaluation->accuracy(), right / 19.0, 1e-9);
  EXPECT_EQ(evaluation->method(), v1::Evaluation::LABEL);
  EXPECT_NEAR(evaluation->majority_accuracy(), 10 / 19.0, 1e-9);
  EXPECT_EQ(evaluation->truncated_row_count(), 3);
}

TEST_F(EvaluationTest, EndsAsSoonAsItIsToldToStop) {
  stop_.request = StopSignal::kStop;
  const auto scorer = T5Scorer::Make(model_.config(), model_.weights());
  EXPECT_TRUE(
      absl::IsCancelled(EvaluateLabels(*scorer, rows_, labels_, stop_, progress_).status()));
  EXPECT_TRUE(absl::IsCancelled(
      EvaluateTeacherForced(model_, rows_, labels_, *tokenizer_, std::nullopt, stop_, progress_)
          .status()));
}

// Keeps what it is told.
class ProgressRecorder : public Silence {
 public:
  void OnProgress(const v1::Progress& progress) override { told.push_back(progress); }
  std::vector<v1::Progress> told;
};

TEST_F(EvaluationTest, TellsHowManyRowsAreDoneAtMostOnceASecond) {
  ProgressRecorder recorder;
  ProgressReporter progress(recorder);
  const auto scorer = T5Scorer::Make(model_.config(), model_.weights());
  progress.Enter(v1::Progress::EVALUATING);
  progress.ExpectRows(4 * 19);
  ASSERT_TRUE(EvaluateLabels(*scorer, rows_, labels_, stop_, progress).ok());
  ASSERT_EQ(recorder.told.size(), 1) << "no second has passed";
  EXPECT_EQ(recorder.told[0].total_rows(), 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(1001));
  const auto teacher_forced = [&] {
    return EvaluateTeacherForced(model_, rows_, labels_, *tokenizer_, std::nullopt, stop_,
                                 progress);
  };
  ASSERT_TRUE(teacher_forced().ok());
  ASSERT_TRUE(teacher_forced().ok());
  ASSERT_EQ(recorder.told.size(), 2);
  EXPECT_EQ(recorder.told[1].phase(), v1::Progress::EVALUATING);
  EXPECT_EQ(recorder.told[1].evaluated_rows(), 2 * 19);
  EXPECT_EQ(recorder.told[1].total_rows(), 4 * 19);
  progress.Enter(v1::Progress::SAVING);
  EXPECT_EQ(recorder.told.back().evaluated_rows(), 0);
  EXPECT_EQ(recorder.told.back().total_rows(), 0);
}

}  // namespace
}  // namespace tasuki
