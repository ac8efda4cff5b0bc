// What becomes of a job's version by its deploy_on_success.
#include <gmock/gmock.h>

#include <filesystem>

#include "model/errors/errors.h"
#include "server/store/alias_table.h"
#include "tests/server/jobs/job_fixture.h"

namespace tasuki {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class DeploymentTest : public JobFixture {
 protected:
  DeploymentTest() {
    AddDataset("d-train", {{"good", 7}, {"bad", 3}});
    PublishMoodVersion();
    publish_ = [this](const Job&, const std::string&) -> absl::StatusOr<std::string> {
      if (published_.empty()) PublishMoodVersion();
      return published_ = "models/mood/versions/2";
    };
    deploy_ = [this](const std::string& alias, const std::string& version, const std::string& job) {
      v1::ModelAlias::Change change;
      change.set_model_version(version);
      change.set_training_job(job);
      return store_->aliases().Set(alias, change).status();
    };
  }
  // Whose candidate and current macro F1 are those of `script`.
  v1::CreateTrainingJobRequest Request(const std::string& script) {
    v1::CreateTrainingJobRequest request;
    Job& job = *request.mutable_training_job();
    job.set_display_name(script);
    job.set_model("models/mood");
    v1::FineTuning& work = *job.mutable_fine_tuning();
    work.set_base_model_version("models/mood/versions/1");
    v1::Task& task = *work.add_tasks();
    task.set_name("mood");
    for (const char* label : {"good", "bad"}) task.add_labels()->set_name(label);
    task.set_train_dataset("datasets/d-train");
    task.set_test_dataset("datasets/d-train");
    job.mutable_deploy_on_success()->set_alias("production");
    return request;
  }
  void PointAlias() {
    ASSERT_TRUE(deploy_("models/mood/aliases/production", "models/mood/versions/1", "").ok());
  }
  std::string Named() {
    const auto alias = store_->aliases().Get("models/mood/aliases/production");
    return alias.ok() ? alias->model_version() : "";
  }
  Job Run(const v1::CreateTrainingJobRequest& request) {
    const auto created = jobs_->Create(request);
    EXPECT_TRUE(created.ok()) << created.status();
    return AwaitState(created->name(), Job::SUCCEEDED);
  }

  std::string published_;
};

TEST_F(DeploymentTest, WithoutAGateTheAliasNamesTheNewVersion) {
  StartJobs();
  const Job job = Run(Request("finish"));
  EXPECT_TRUE(job.deployment().deployed());
  EXPECT_EQ(job.deployment().previous_model_version(), "");
  EXPECT_EQ(Named(), "models/mood/versions/2");
}

TEST_F(DeploymentTest, AGateLetsThroughWhatIsNotWorse) {
  PointAlias();
  StartJobs();
  auto request = Request("f1:.79:.8 finish");
  request.mutable_training_job()->mutable_deploy_on_success()->set_max_regression(.02);
  const Job job = Run(request);
  EXPECT_TRUE(job.deployment().deployed()) << job.deployment().reason();
  EXPECT_EQ(job.deployment().previous_model_version(), "models/mood/versions/1");
  ASSERT_EQ(job.deployment().comparisons_size(), 1);
  EXPECT_EQ(job.deployment().comparisons(0).task(), "mood");
  EXPECT_EQ(job.deployment().comparisons(0).current_macro_f1(), .8);
  EXPECT_EQ(job.deployment().comparisons(0).candidate_macro_f1(), .79);
  EXPECT_EQ(Named(), "models/mood/versions/2");
  EXPECT_FALSE(std::filesystem::exists(data_->job_comparison(job.name())));
  EXPECT_THAT(States(job.name()), ElementsAre(Job::QUEUED, Job::RUNNING, Job::SUCCEEDED));
}

TEST_F(DeploymentTest, AGateKeepsOutWhatIsWorse) {
  PointAlias();
  StartJobs();
  auto request = Request("f1:.7:.8 finish");
  request.mutable_training_job()->mutable_deploy_on_success()->set_max_regression(.02);
  const Job job = Run(request);
  EXPECT_FALSE(job.deployment().deployed());
  EXPECT_EQ(job.deployment().reason(),
            "macro F1 of task mood is 0.7000, that of models/mood/versions/1 is 0.8000, and it may "
            "fall by 0.02");
  EXPECT_EQ(job.model_version(), "models/mood/versions/2") << "it is published";
  EXPECT_EQ(Named(), "models/mood/versions/1");
  bool told = false;
  for (const auto& event : Events(job.name())) {
    told |= event.message().text().find("is not deployed: macro F1") != std::string::npos;
  }
  EXPECT_TRUE(told);
}

TEST_F(DeploymentTest, WhatCannotBeComparedIsNotDeployed) {
  PointAlias();
  StartJobs();
  // The trainer of the comparison, too, dies after its first word.
  auto request = Request("f1:.7:.8 finish exit:3");
  request.mutable_training_job()->mutable_deploy_on_success()->set_max_regression(0);
  EXPECT_FALSE(Run(request).deployment().deployed());
  EXPECT_EQ(Named(), "models/mood/versions/1");
}

TEST_F(DeploymentTest, AnAliasThatCannotBeSetIsTheDeploymentsEndNotTheJobs) {
  deploy_ = [](const std::string&, const std::string&, const std::string&) {
    return absl::DataLossError("config.json changed.");
  };
  StartJobs();
  const Job job = Run(Request("finish"));
  EXPECT_FALSE(job.deployment().deployed());
  EXPECT_EQ(job.deployment().reason(), "config.json changed.");
}

TEST_F(DeploymentTest, IsOfFineTuningOnlyAndChecked) {
  StartJobs();
  auto request = RequestOf("finish");
  request.mutable_training_job()->mutable_deploy_on_success()->set_alias("No Alias");
  request.mutable_training_job()->mutable_deploy_on_success()->set_max_regression(2);
  const absl::Status status = jobs_->Create(request).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  for (const char* fault : {"is of fine-tuning only", "\"No Alias\" is no id", "max_regression"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(fault));
  }
}

}  // namespace
}  // namespace tasuki
