#include "server/rpc/classification.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "tests/testing/fake_classifier.h"

namespace tasuki {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class ClassificationTest : public testing::Test {
 protected:
  static v1::ClassifyRequest RequestOf(const std::vector<std::string>& texts,
                                       const std::vector<std::string>& tasks = {}) {
    v1::ClassifyRequest request;
    request.set_model("models/m");
    request.mutable_texts()->Assign(texts.begin(), texts.end());
    request.mutable_tasks()->Assign(tasks.begin(), tasks.end());
    return request;
  }

  Metrics metrics_;
  std::shared_ptr<const LoadedModel> model_ =
      FakeModel("models/m/versions/3", std::make_shared<ScoreLog>(), metrics_);
};

TEST_F(ClassificationTest, RefusesWhatIsTooMuchOrNothing) {
  EXPECT_TRUE(CheckClassifyRequest(RequestOf({""})).ok()) << "an empty text is a text";
  EXPECT_TRUE(CheckClassifyRequest(RequestOf(std::vector<std::string>(256, "x"))).ok());
  EXPECT_TRUE(CheckClassifyRequest(RequestOf({std::string(1 << 20, 'x')})).ok());

  EXPECT_EQ(ReasonOf(CheckClassifyRequest(RequestOf({}))), v1::FIELD_INVALID);
  EXPECT_EQ(ReasonOf(CheckClassifyRequest(RequestOf(std::vector<std::string>(257, "x")))),
            v1::LIMIT_EXCEEDED);
  const absl::Status large =
      CheckClassifyRequest(RequestOf({"x", std::string((1 << 20) + 1, 'x')}));
  EXPECT_EQ(ReasonOf(large), v1::LIMIT_EXCEEDED);
  EXPECT_THAT(large.message(), HasSubstr("texts[1] has 1048577 bytes; at most 1048576"));

  v1::ClassifyRequest request = RequestOf({"x"});
  request.set_model("m");
  EXPECT_EQ(ReasonOf(CheckClassifyRequest(request)), v1::FIELD_INVALID);
  request = RequestOf({"x"});
  request.set_top_k(-1);
  request.set_truncation(static_cast<v1::ClassifyRequest::Truncation>(9));
  request.set_priority(static_cast<v1::ClassifyRequest::Priority>(9));
  const absl::Status options = CheckClassifyRequest(request);
  EXPECT_EQ(ReasonOf(options), v1::FIELD_INVALID);
  for (const char* field : {"top_k", "truncation", "priority"}) {
    EXPECT_THAT(options.message(), HasSubstr(field));
  }
}

TEST_F(ClassificationTest, TakesAllTasksOrThoseThatAreNamed) {
  EXPECT_THAT(*WantedTasks(RequestOf({"x"}), *model_), ElementsAre(0, 1));
  EXPECT_THAT(*WantedTasks(RequestOf({"x"}, {"second"}), *model_), ElementsAre(1));
  EXPECT_THAT(*WantedTasks(RequestOf({"x"}, {"second", "first"}), *model_), ElementsAre(1, 0));
}

TEST_F(ClassificationTest, NamesTheTasksThereAreToWhoAsksForAnother) {
  const absl::Status unknown = WantedTasks(RequestOf({"x"}, {"third"}), *model_).status();
  EXPECT_EQ(ReasonOf(unknown), v1::TASK_UNKNOWN);
  EXPECT_THAT(unknown.message(), HasSubstr("no task \"third\"; it has first, second."));
  EXPECT_EQ(ReasonOf(WantedTasks(RequestOf({"x"}, {"first", "first"}), *model_).status()),
            v1::FIELD_INVALID);
}

TEST_F(ClassificationTest, RefusesWhatNoClientWouldTakeAndSaysWhatFits) {
  for (const int labels : {2, 256}) {
    v1::Task task;
    for (int i = 0; i < labels; ++i) {
      task.add_labels()->set_name(absl::StrCat(i, std::string(180, 'l')));
    }
    internal::ModelManifest manifest;
    for (int i = 0; i < 16; ++i) {
      *manifest.add_tasks() = task;
      manifest.mutable_tasks(i)->set_name(absl::StrCat(10 + i, std::string(30, 't')));
    }
    const auto model =
        FakeModel("models/m/versions/1", std::make_shared<ScoreLog>(), metrics_, manifest);
    std::vector<int> wanted(manifest.tasks_size());
    std::iota(wanted.begin(), wanted.end(), 0);
    int fit = 256;
    absl::Status status;
    while (
        !(status = CheckAnswerSize(RequestOf(std::vector<std::string>(fit, "x")), *model, wanted))
             .ok()) {
      EXPECT_EQ(ReasonOf(status), v1::LIMIT_EXCEEDED);
      ASSERT_GT(--fit, 0);
    }
    EXPECT_EQ(fit, labels == 2 ? 256 : 4);
    // The longest answer to so many texts.
    v1::ClassifyResponse response;
    Classifier::Input input;
    input.token_count = 1 << 30;
    input.truncated = true;
    FillInputs(*model, wanted, std::vector<Classifier::Input>(fit * wanted.size(), input),
               response);
    FillScores(
        *model, wanted,
        std::vector<std::vector<float>>(fit * wanted.size(), std::vector<float>(labels, -1e-30f)),
        0, response);
    EXPECT_LE(response.ByteSizeLong(), 4u << 20);
  }
  EXPECT_TRUE(CheckAnswerSize(RequestOf({"x"}), *model_, {0, 1}).ok());
}

TEST_F(ClassificationTest, AnswersTextByTextInTheOrderOfTheTasks) {
  const v1::ClassifyRequest request = RequestOf({"ab", ""});
  const std::vector<int> tasks = {1, 0};
  const auto inputs = PrepareInputs(request, *model_, tasks);
  ASSERT_TRUE(inputs.ok());
  v1::ClassifyResponse response;
  FillInputs(*model_, tasks, *inputs, response);
  // One input each: text 0 second and first task, then text 1.
  FillScores(*model_, tasks, {{-1, -2}, {-3, -1}, {-2, -2}, {0, -50}}, 0, response);

  EXPECT_EQ(response.model_version(), "models/m/versions/3");
  ASSERT_EQ(response.results_size(), 2);
  const v1::Prediction& first = response.results(0).predictions(0);
  EXPECT_EQ(first.task(), "second");
  EXPECT_EQ(first.label(), "yes");
  EXPECT_EQ(first.token_count(), 3);
  EXPECT_NEAR(first.scores(0).probability(), 1 / (1 + std::exp(-1)), 1e-9);
  EXPECT_EQ(first.scores(0).log_probability(), -1);
  EXPECT_NEAR(first.scores(0).probability() + first.scores(1).probability(), 1, 1e-12);
  const v1::Prediction& other = response.results(0).predictions(1);
  EXPECT_EQ(other.task(), "first");
  EXPECT_EQ(other.label(), "no") << "most probable first";
  EXPECT_EQ(other.scores(1).label(), "yes");
  EXPECT_EQ(response.results(1).predictions(0).label(), "yes") << "of equals, the first declared";
  EXPECT_EQ(response.results(1).predictions(1).token_count(), 1);
}

TEST_F(ClassificationTest, AnswersTheMostProbableLabelsOnly) {
  const v1::ClassifyRequest request = RequestOf({"a"});
  for (const int top_k : {1, 5}) {
    v1::ClassifyResponse response;
    FillInputs(*model_, {0}, *PrepareInputs(request, *model_, {0}), response);
    FillScores(*model_, {0}, {{-3, -1}}, top_k, response);
    const v1::Prediction& prediction = response.results(0).predictions(0);
    EXPECT_EQ(prediction.scores_size(), std::min(top_k, 2));
    EXPECT_EQ(prediction.label(), "no");
    EXPECT_NEAR(prediction.scores(0).probability(), 1 / (1 + std::exp(-2)), 1e-9)
        << "among all labels";
  }
}

TEST_F(ClassificationTest, NamesTheTextThatIsTooLongIfNoneMayBeCut) {
  internal::ModelManifest manifest;
  manifest.set_max_input_tokens(4);
  const auto model =
      FakeModel("models/m/versions/3", std::make_shared<ScoreLog>(), metrics_, manifest);
  v1::ClassifyRequest request = RequestOf({"abc", "abcd", "abcde"});
  const auto cut = PrepareInputs(request, *model, {1});
  ASSERT_TRUE(cut.ok());
  EXPECT_FALSE((*cut)[0].truncated);
  EXPECT_TRUE((*cut)[1].truncated);
  request.set_truncation(v1::ClassifyRequest::ERROR);
  const absl::Status status = PrepareInputs(request, *model, {1}).status();
  EXPECT_EQ(ReasonOf(status), v1::TEXT_TOO_LONG);
  EXPECT_THAT(status.message(), HasSubstr("texts[1] has 5 tokens for task \"second\""));
  EXPECT_THAT(status.message(), HasSubstr("takes 4"));
}

TEST_F(ClassificationTest, CalibratesProbabilitiesAndAbstainsWhereTheVersionDoes) {
  internal::ModelManifest manifest;
  v1::Calibration& calibration = *manifest.add_calibrations();
  calibration.set_task("second");
  calibration.set_calibrated(true);
  calibration.set_temperature(2);
  calibration.set_abstain_threshold(.7);
  const auto model =
      FakeModel("models/m/versions/3", std::make_shared<ScoreLog>(), metrics_, manifest);
  const v1::ClassifyRequest request = RequestOf({"a", "b"});
  const std::vector<int> tasks = {0, 1};
  v1::ClassifyResponse response;
  FillInputs(*model, tasks, *PrepareInputs(request, *model, tasks), response);
  FillScores(*model, tasks, {{-2, -1}, {-2, -1}, {-5, -1}, {-5, -1}}, 0, response);

  const auto top = [&](int text, int task) {
    return response.results(text).predictions(task).scores(0);
  };
  EXPECT_NEAR(top(0, 0).probability(), 1 / (1 + std::exp(-1)), 1e-9) << "no calibration";
  EXPECT_NEAR(top(0, 1).probability(), 1 / (1 + std::exp(-.5)), 1e-9);
  EXPECT_EQ(top(0, 1).log_probability(), -1) << "as it was";
  EXPECT_FALSE(response.results(0).predictions(0).abstained());
  EXPECT_TRUE(response.results(0).predictions(1).abstained()) << "0.62 is below 0.7";
  EXPECT_EQ(response.results(0).predictions(1).label(), "no") << "the label is given all the same";
  EXPECT_FALSE(response.results(1).predictions(1).abstained()) << "0.88 is not";
}

}  // namespace
}  // namespace tasuki
