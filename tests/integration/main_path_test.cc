// From an upload to an answer, with the real binaries.

#include <gmock/gmock.h>

#include <filesystem>
#include <set>

#include "tests/integration/world.h"

namespace tasuki {
namespace {

using testing::HasSubstr;

TEST(MainPath, BothJobsSucceededWithTheirEvaluations) {
  const World& world = TheWorld();
  EXPECT_EQ(world.pretraining.state(), v1::TrainingJob::SUCCEEDED);
  EXPECT_EQ(world.multi_task.state(), v1::TrainingJob::SUCCEEDED);
  EXPECT_EQ(world.multi_task.attempt(), 1);
  std::set<std::string> evaluated;
  for (const auto& evaluation : world.multi_task.evaluations()) {
    evaluated.insert(evaluation.task() + " " + v1::Evaluation::Method_Name(evaluation.method()));
    EXPECT_GT(evaluation.loss(), 0);
    EXPECT_GT(evaluation.row_count(), 0);
  }
  EXPECT_THAT(evaluated,
              testing::UnorderedElementsAre("counterfactual LABEL", "counterfactual TEACHER_FORCED",
                                            "sentiment LABEL", "sentiment TEACHER_FORCED"));
}

TEST(MainPath, AVersionAnswersEveryTaskAfterARestart) {
  Tasukid tasukid(TheWorld().data_dir);
  tasukid.AwaitLoaded(kReviews);
  v1::ClassifyResponse response;
  const grpc::Status status =
      tasukid.Classify("models/reviews", {"3日前に届いた本は最高です。", ""}, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.model_version(), kReviews);
  ASSERT_EQ(response.results_size(), 2);
  for (const auto& result : response.results()) {
    ASSERT_EQ(result.predictions_size(), 2);
    EXPECT_EQ(result.predictions(0).task(), "counterfactual");
    EXPECT_EQ(result.predictions(0).scores_size(), 2);
    EXPECT_EQ(result.predictions(1).scores_size(), 3);
    for (const auto& prediction : result.predictions()) {
      double sum = 0;
      for (const auto& score : prediction.scores()) sum += score.probability();
      EXPECT_NEAR(sum, 1, 1e-6);
      EXPECT_EQ(prediction.label(), prediction.scores(0).label());
      EXPECT_FALSE(prediction.truncated());
    }
  }
}

TEST(MainPath, FlagsATextThatIsTooLong) {
  Tasukid tasukid(TheWorld().data_dir);
  tasukid.AwaitLoaded(kReviews);
  std::string text;
  for (int i = 0; i < 100; ++i) text += "壊れていました。";
  v1::ClassifyResponse response;
  ASSERT_TRUE(tasukid.Classify(kReviews, {text}, &response).ok());
  for (const auto& prediction : response.results(0).predictions()) {
    EXPECT_TRUE(prediction.truncated());
    EXPECT_GT(prediction.token_count(), 64);
  }
}

TEST(MainPath, EstimatesAJobAndReportsOnItsData) {
  Tasukid tasukid(TheWorld().data_dir);
  v1::EstimateTrainingJobRequest request;
  *request.mutable_training_job() = LongJob("models/never");
  grpc::ClientContext first, second, third;
  v1::EstimateTrainingJobResponse estimate;
  grpc::Status status = tasukid.training->EstimateTrainingJob(&first, request, &estimate);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(estimate.steps(), 400);
  EXPECT_GT(estimate.measured_steps(), 0);
  EXPECT_GT(estimate.input_tokens(), estimate.examples());
  EXPECT_GT(estimate.memory().program_bytes(), int64_t{10} << 20);
  v1::ListTrainingJobsResponse jobs;
  ASSERT_TRUE(tasukid.training->ListTrainingJobs(&second, {}, &jobs).ok());
  for (const auto& job : jobs.training_jobs()) EXPECT_NE(job.model(), "models/never");

  v1::InspectDatasetRequest inspect;
  inspect.set_name(TheWorld().sentiment);
  inspect.add_other_datasets(TheWorld().counterfactual);
  inspect.set_report(true);
  inspect.set_model_version(kBase);
  v1::InspectDatasetResponse report;
  status = tasukid.datasets->InspectDataset(&third, inspect, &report);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(report.reports_size(), 2);
  EXPECT_GT(report.reports(0).token_lengths().p50(), 1);
  EXPECT_EQ(report.overlaps_size(), 1);
}

TEST(MainPath, ShowsWhatHappenedInTheMetrics) {
  Tasukid tasukid(TheWorld().data_dir);
  tasukid.AwaitLoaded(kReviews);
  const v1::TrainingJob job = tasukid.AwaitEnd(tasukid.Submit(LongJob("models/measured")));
  ASSERT_EQ(job.state(), v1::TrainingJob::SUCCEEDED) << job.error().message();
  const std::string metrics = tasukid.Metrics();
  EXPECT_THAT(metrics, HasSubstr("tasuki_train_steps_total 400\n"));
  EXPECT_THAT(metrics, HasSubstr("tasuki_checkpoints_total"));
  EXPECT_THAT(metrics, HasSubstr("tasuki_model_info{"));
  EXPECT_THAT(metrics, HasSubstr("grpc_server_handled_total{"));
}

TEST(MainPath, WhatIsStoredIsNobodyElses) {
  int files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(TheWorld().data_dir)) {
    using std::filesystem::perms;
    const perms others = entry.status().permissions() & (perms::group_all | perms::others_all);
    EXPECT_EQ(others, perms::none) << entry.path();
    ++files;
  }
  EXPECT_GT(files, 20);
}

TEST(MainPath, TheLogTellsTheStoryToPeople) {
  Tasukid tasukid(TheWorld().data_dir);
  grpc::ClientContext context;
  v1::GetTrainingJobLogRequest request;
  request.set_name(TheWorld().multi_task.name());
  v1::GetTrainingJobLogResponse response;
  ASSERT_TRUE(tasukid.training->GetTrainingJobLog(&context, request, &response).ok());
  ASSERT_GT(response.lines_size(), 3);
  EXPECT_THAT(response.lines(0), HasSubstr("attempt 1 of " + TheWorld().multi_task.name()));
  EXPECT_THAT(response.lines(response.lines_size() - 1), HasSubstr("Finished after step 12"));
}

}  // namespace
}  // namespace tasuki
