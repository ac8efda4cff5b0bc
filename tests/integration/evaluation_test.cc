// Calibration and evaluation from a job to an answer, with the real binaries.

#include <gmock/gmock.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/integration/world.h"

namespace tasuki {
namespace {

v1::ModelVersion GetVersion(Tasukid& tasukid, const std::string& name) {
  grpc::ClientContext context;
  v1::GetModelVersionRequest request;
  request.set_name(name);
  v1::ModelVersion version;
  EXPECT_TRUE(tasukid.models->GetModelVersion(&context, request, &version).ok());
  return version;
}

grpc::Status Download(Tasukid& tasukid, const std::string& job, std::string& text) {
  grpc::ClientContext context;
  v1::DownloadPredictionsRequest request;
  request.set_name(job);
  const auto reader = tasukid.training->DownloadPredictions(&context, request);
  v1::DownloadPredictionsResponse part;
  text.clear();
  while (reader->Read(&part)) text += part.chunk();
  EXPECT_TRUE(text.empty() || part.size_bytes() == static_cast<int64_t>(text.size()));
  return reader->Finish();
}

TEST(Evaluation, AVersionIsCalibratedAsItsJobSaysAndAnswersSo) {
  const World& world = TheWorld();
  ASSERT_EQ(world.multi_task.calibrations_size(), 2);
  Tasukid tasukid(world.data_dir);
  tasukid.AwaitLoaded(kReviews);
  const v1::ModelVersion version = GetVersion(tasukid, kReviews);
  v1::ClassifyResponse response;
  ASSERT_TRUE(tasukid.Classify(kReviews, {"3日前に届いた本は最高です。"}, &response).ok());
  for (int task = 0; task < 2; ++task) {
    const v1::Calibration& calibration = world.multi_task.calibrations(task);
    EXPECT_EQ(version.calibrations(task).DebugString(), calibration.DebugString());
    EXPECT_TRUE(calibration.calibrated());
    EXPECT_LE(calibration.valid_nll_after(), calibration.valid_nll_before());
    EXPECT_FALSE(calibration.has_after()) << "there is no test set";
    // softmax(log p / T)
    double sum = 0;
    const v1::Prediction& prediction = response.results(0).predictions(task);
    for (const auto& score : prediction.scores()) {
      sum += std::exp(score.log_probability() / calibration.temperature());
    }
    for (const auto& score : prediction.scores()) {
      EXPECT_NEAR(score.probability(),
                  std::exp(score.log_probability() / calibration.temperature()) / sum, 1e-6);
    }
  }
}

TEST(Evaluation, OfAVersionGivesFiguresAndTheAnswersThatClassifyGives) {
  const World& world = TheWorld();
  Tasukid tasukid(world.data_dir);
  tasukid.AwaitLoaded(kReviews);
  const std::vector<std::string> texts = {"9日前に届いた扇子は最高です。", "これは普通です。",
                                          "また壊れていました。"};
  const std::string rows = tasukid.UploadRows(
      "new", texts[0] + "\tpositive\n" + texts[1] + "\tneutral\n" + texts[2] + "\tnegative\n");
  v1::TrainingJob job;
  v1::EvaluationJob& work = *job.mutable_evaluation();
  work.set_model_version("models/reviews");
  work.set_write_predictions(true);
  work.add_tasks()->set_name("sentiment");
  work.mutable_tasks(0)->set_test_dataset(rows);
  const v1::TrainingJob ended = tasukid.AwaitEnd(tasukid.Submit(job));
  ASSERT_EQ(ended.state(), v1::TrainingJob::SUCCEEDED) << ended.error().message();
  EXPECT_EQ(ended.evaluation().model_version(), kReviews);
  EXPECT_EQ(ended.model_version(), "");
  EXPECT_EQ(ended.evaluations_size(), 2);
  ASSERT_EQ(ended.calibrations_size(), 1);
  EXPECT_EQ(ended.calibrations(0).temperature(), world.multi_task.calibrations(1).temperature());
  EXPECT_EQ(ended.calibrations(0).dataset(), rows);

  std::string lines;
  const grpc::Status status = Download(tasukid, ended.name(), lines);
  ASSERT_TRUE(status.ok()) << status.error_message();
  v1::ClassifyResponse response;
  ASSERT_TRUE(tasukid.Classify(kReviews, texts, &response).ok());
  std::istringstream stream(lines);
  int count = 0;
  for (std::string line; std::getline(stream, line); ++count) {
    const auto answer = nlohmann::json::parse(line);
    EXPECT_EQ(answer["row"], count + 1);
    const v1::Prediction& prediction = response.results(count).predictions(1);
    EXPECT_EQ(answer["predicted"], prediction.label());
    for (const auto& score : prediction.scores()) {
      EXPECT_NEAR(answer["probabilities"][score.label()].get<double>(), score.probability(), 1e-4);
    }
  }
  EXPECT_EQ(count, 3);
  std::string none;
  EXPECT_EQ(ReasonOf(Download(tasukid, world.multi_task.name(), none)), v1::JOB_STATE);
  EXPECT_EQ(ReasonOf(Download(tasukid, "trainingJobs/none", none)), v1::RESOURCE_NOT_FOUND);
}

TEST(Evaluation, OfABaseNeedsLabelsAndIsNotCalibrated) {
  const World& world = TheWorld();
  Tasukid tasukid(world.data_dir);
  v1::TrainingJob job;
  v1::EvaluationJob& work = *job.mutable_evaluation();
  work.set_model_version(kBase);
  *work.add_tasks() = SentimentTask("");
  work.mutable_tasks(0)->clear_valid_dataset();
  work.mutable_tasks(0)->set_test_dataset(world.sentiment);
  const v1::TrainingJob ended = tasukid.AwaitEnd(tasukid.Submit(job));
  ASSERT_EQ(ended.state(), v1::TrainingJob::SUCCEEDED) << ended.error().message();
  EXPECT_FALSE(ended.calibrations(0).calibrated());
  work.mutable_tasks(0)->clear_labels();
  v1::TrainingJob created;
  EXPECT_EQ(ReasonOf(tasukid.Create(job, &created)), v1::FIELD_INVALID);
}

}  // namespace
}  // namespace tasuki
