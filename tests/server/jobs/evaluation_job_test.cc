// Evaluations as jobs: what differs from those that publish a model.
#include <gmock/gmock.h>

#include "model/errors/errors.h"
#include "tasuki/internal/trainer.pb.h"
#include "tests/server/jobs/job_fixture.h"

namespace tasuki {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class EvaluationJobTest : public JobFixture {
 protected:
  EvaluationJobTest() {
    AddDataset("d-train", {{"good", 7}, {"bad", 3}});
    PublishMoodVersion();
    publish_ = [](const Job&, const std::string&) -> absl::StatusOr<std::string> {
      ADD_FAILURE() << "an evaluation publishes nothing";
      return absl::InternalError("");
    };
  }
  v1::CreateTrainingJobRequest Request(const std::string& script, bool keep = true) {
    v1::CreateTrainingJobRequest request;
    *request.mutable_training_job() = EvaluationJobOf("models/mood");
    request.mutable_training_job()->set_display_name(script);
    request.mutable_training_job()->mutable_evaluation()->set_write_predictions(keep);
    return request;
  }
  absl::Status Read(const std::string& name, std::string& text) {
    text.clear();
    return jobs_->ReadPredictions(name, [&](int64_t size, std::string bytes) {
      EXPECT_EQ(size, 6);
      text += bytes;
      return true;
    });
  }
};

TEST_F(EvaluationJobTest, SucceedsWithFiguresAndPredictions) {
  StartJobs();
  const Job created = *jobs_->Create(Request("progress answers finish"));
  const Job job = AwaitState(created.name(), Job::SUCCEEDED);
  EXPECT_EQ(job.model_version(), "");
  ASSERT_EQ(job.evaluations_size(), 1);
  ASSERT_EQ(job.calibrations_size(), 1);
  EXPECT_EQ(job.calibrations(0).temperature(), 1.5);
  EXPECT_THAT(States(job.name()), ElementsAre(Job::QUEUED, Job::RUNNING, Job::SUCCEEDED));
  internal::TrainerSpec spec;
  ASSERT_TRUE(ReadJson(data_->job_spec(job.name()), spec).ok());
  EXPECT_EQ(spec.base_dir(), data_->model_version("models/mood/versions/1"));
  ASSERT_EQ(spec.datasets_size(), 1);
  std::string text;
  EXPECT_TRUE(Read(job.name(), text).ok());
  EXPECT_EQ(text, "1\n2\n3\n");
}

TEST_F(EvaluationJobTest, HasNoPredictionsBeforeItsEndOrUnasked) {
  StartJobs();
  const std::string waiting = jobs_->Create(Request("progress answers wait|finish"))->name();
  AwaitWord(waiting);
  const absl::Status finish = jobs_->Finish(waiting).status();
  EXPECT_EQ(ReasonOf(finish), v1::JOB_STATE);
  EXPECT_THAT(finish.message(), HasSubstr("has no training to finish; cancel it"));
  std::string text;
  absl::Status status = Read(waiting, text);
  EXPECT_EQ(ReasonOf(status), v1::JOB_STATE);
  EXPECT_THAT(status.message(), HasSubstr("is RUNNING; its predictions are there once"));
  ASSERT_TRUE(jobs_->Pause(waiting).ok());
  AwaitState(waiting, Job::PAUSED);
  std::string told;
  for (const auto& event : Events(waiting)) told += event.message().text();
  EXPECT_THAT(told, HasSubstr("the evaluation begins anew once it is resumed"));
  ASSERT_TRUE(jobs_->Resume(waiting).ok());
  AwaitState(waiting, Job::SUCCEEDED);
  EXPECT_TRUE(Read(waiting, text).ok());

  const std::string unasked = jobs_->Create(Request("finish", /*keep=*/false))->name();
  AwaitState(unasked, Job::SUCCEEDED);
  status = Read(unasked, text);
  EXPECT_EQ(ReasonOf(status), v1::JOB_STATE);
  EXPECT_THAT(status.message(), HasSubstr("keeps no predictions"));
  EXPECT_TRUE(absl::IsNotFound(Read("trainingJobs/none", text)));
}

TEST_F(EvaluationJobTest, SaysIfItsPredictionsAreGoneAndStopsWhenTold) {
  StartJobs();
  const std::string name = jobs_->Create(Request("answers finish"))->name();
  AwaitState(name, Job::SUCCEEDED);
  EXPECT_TRUE(absl::IsCancelled(
      jobs_->ReadPredictions(name, [](int64_t, const std::string&) { return false; })));
  ASSERT_TRUE(RemoveAll(data_->job_predictions(name)).ok());
  std::string text;
  EXPECT_EQ(ReasonOf(Read(name, text)), v1::FILE_CHANGED);
}

TEST_F(EvaluationJobTest, KeepsItsVersionAndDatasetsWhileItLasts) {
  StartJobs();
  const std::string name = jobs_->Create(Request("progress wait"))->name();
  AwaitWord(name);
  EXPECT_EQ(ReasonOf(store_->datasets().Delete("datasets/d-train")), v1::RESOURCE_IN_USE);
  ASSERT_TRUE(jobs_->Cancel(name).ok());
  AwaitState(name, Job::CANCELLED);
  EXPECT_EQ(Get(name).evaluations_size(), 0);
  EXPECT_TRUE(store_->datasets().Delete("datasets/d-train").ok());
}

}  // namespace
}  // namespace tasuki
