#include "server/jobs/job_check.h"

#include <gmock/gmock.h>

#include "model/recipe/recipe.h"
#include "tests/server/jobs/job_fixture.h"

namespace tasuki {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class JobCheckTest : public JobFixture {
 protected:
  JobCheckTest() {
    AddDataset("d-stars", {{"good", 6}, {"bad", 3}, {"ugly", 1}});
    AddDataset("d-train", {{"good", 7}, {"bad", 3}});
    for (int i = 0; i < 2; ++i) PublishVersion("models/base");
  }

  static Job FineTuningJob() {
    Job job;
    job.set_model("models/m");
    auto& work = *job.mutable_fine_tuning();
    work.set_base_model_version("models/base");
    auto& task = *work.add_tasks();
    task.set_name("sentiment");
    task.add_labels()->set_name("good");
    task.add_labels()->set_name("bad");
    task.set_train_dataset("datasets/d-train");
    return job;
  }
  // Message of all faults; empty if there is none.
  std::string FaultsOf(Job& job) {
    Faults faults;
    ResolveJob(job, faults);
    const absl::Status status = CheckJob(*store_, *data_, job, faults);
    EXPECT_TRUE(status.ok()) << status;
    return std::string(faults.ToStatus().message());
  }
};

TEST_F(JobCheckTest, TakesAGoodJobAndNamesTheNewestVersionOfItsBase) {
  Job job = FineTuningJob();
  EXPECT_EQ(FaultsOf(job), "");
  EXPECT_EQ(job.fine_tuning().base_model_version(), "models/base/versions/2");
  job.mutable_fine_tuning()->set_base_model_version("models/base/versions/1");
  EXPECT_EQ(FaultsOf(job), "");
  EXPECT_EQ(job.fine_tuning().base_model_version(), "models/base/versions/1");
}

TEST_F(JobCheckTest, NamesAllThatTheStoreLacksAtOnce) {
  Job job = FineTuningJob();
  job.mutable_fine_tuning()->set_base_model_version("models/nothing");
  auto& task = *job.mutable_fine_tuning()->mutable_tasks(0);
  task.set_train_dataset("datasets/d-absent");
  task.set_valid_dataset("datasets/d-texts");
  EXPECT_THAT(
      FaultsOf(job),
      AllOf(HasSubstr("fine_tuning.base_model_version: models/nothing does not exist"),
            HasSubstr("fine_tuning.tasks[0].train_dataset: datasets/d-absent does not exist"),
            HasSubstr("fine_tuning.tasks[0].valid_dataset: datasets/d-texts has texts only")));
}

TEST_F(JobCheckTest, SaysAMalformedNameOnce) {
  Job job = FineTuningJob();
  job.mutable_fine_tuning()->mutable_tasks(0)->set_train_dataset("reviews.tsv");
  EXPECT_THAT(FaultsOf(job), Not(HasSubstr("does not exist")));
}

TEST_F(JobCheckTest, NamesLabelValuesThatNoLabelMeans) {
  Job job = FineTuningJob();
  job.mutable_fine_tuning()->mutable_tasks(0)->set_train_dataset("datasets/d-stars");
  EXPECT_THAT(FaultsOf(job), AllOf(HasSubstr("fine_tuning.tasks[0].train_dataset"),
                                   HasSubstr("\"ugly\" (1 rows)"), Not(HasSubstr("\"good\""))));
  auto& bad = *job.mutable_fine_tuning()->mutable_tasks(0)->mutable_labels(1);
  bad.add_values("ugly");
  EXPECT_EQ(FaultsOf(job), "");
  // As they are written: neither case nor spaces are forgiven.
  AddDataset("d-nearly", {{"Good", 1}, {"good ", 2}});
  job.mutable_fine_tuning()->mutable_tasks(0)->set_train_dataset("datasets/d-nearly");
  EXPECT_THAT(FaultsOf(job),
              AllOf(HasSubstr("\"Good\" (1 rows)"), HasSubstr("\"good \" (2 rows)")));
}

TEST_F(JobCheckTest, RefusesATargetTextThatTheBaseCannotWrite) {
  Job job = FineTuningJob();
  job.mutable_fine_tuning()->mutable_tasks(0)->mutable_labels(0)->set_target_text("\u826f\u3044");
  EXPECT_THAT(FaultsOf(job),
              AllOf(HasSubstr("fine_tuning.tasks[0].labels"), HasSubstr("\u826f\u3044")));
}

TEST_F(JobCheckTest, RefusesAnAdapterOfModulesThatTheBaseLacks) {
  Job job = FineTuningJob();
  v1::Lora& lora = *job.mutable_fine_tuning()->mutable_lora();
  for (const char* module : {"q", "k", "v", "o", "wi", "wo"}) lora.add_target_modules(module);
  EXPECT_EQ(FaultsOf(job), "");
  lora.add_target_modules("wi_1");
  EXPECT_THAT(FaultsOf(job), AllOf(HasSubstr("fine_tuning.lora.target_modules"),
                                   HasSubstr("models/base/versions/2 has no module \"wi_1\"")));
}

TEST_F(JobCheckTest, LooksAtTheDatasetsOfPretraining) {
  Job job = RequestOf("").training_job();
  EXPECT_EQ(FaultsOf(job), "");
  job.mutable_pretraining()->add_datasets("datasets/d-absent");
  EXPECT_THAT(FaultsOf(job), HasSubstr("pretraining.datasets[1]: datasets/d-absent does not"));
}

TEST_F(JobCheckTest, ABaseThatLostAFileIsDamagedNotUnknown) {
  for (const char* file : {"model.safetensors", "spiece.model"}) {
    ASSERT_TRUE(
        RemoveAll(absl::StrCat(data_->model_version("models/base/versions/2"), "/", file)).ok());
    Job job = FineTuningJob();
    job.mutable_fine_tuning()->mutable_lora();
    Faults faults;
    ResolveJob(job, faults);
    const absl::Status status = CheckJob(*store_, *data_, job, faults);
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_EQ(ReasonOf(status), v1::FILE_CHANGED);
    EXPECT_THAT(status.message(), HasSubstr(absl::StrCat("lost its ", file)));
  }
}

TEST_F(JobCheckTest, GivesAnEvaluationWhatItsVersionKnows) {
  PublishMoodVersion();
  Job job = EvaluationJobOf("models/mood");
  EXPECT_EQ(FaultsOf(job), "");
  EXPECT_EQ(job.evaluation().model_version(), "models/mood/versions/1");
  EXPECT_EQ(job.evaluation().max_input_tokens(), 77);
  EXPECT_EQ(job.evaluation().tasks(0).prefix(), "mood: ");
  ASSERT_EQ(job.evaluation().tasks(0).labels_size(), 2);
  EXPECT_EQ(job.evaluation().tasks(0).labels(1).target_text(), "bad");
  // What is given stays.
  job.mutable_evaluation()->set_max_input_tokens(9);
  job.mutable_evaluation()->mutable_tasks(0)->set_prefix("");
  EXPECT_EQ(FaultsOf(job), "");
  EXPECT_EQ(job.evaluation().max_input_tokens(), 9);
  EXPECT_EQ(job.evaluation().tasks(0).prefix(), "");
}

TEST_F(JobCheckTest, AnEvaluationOfABaseNeedsLabels) {
  Job job = EvaluationJobOf("models/base");
  EXPECT_THAT(FaultsOf(job), HasSubstr("evaluation.tasks[0].labels: are needed: "
                                       "models/base/versions/2 has no task \"mood\""));
  for (const char* label : {"good", "bad"}) {
    job.mutable_evaluation()->mutable_tasks(0)->add_labels()->set_name(label);
  }
  EXPECT_EQ(FaultsOf(job), "");
  EXPECT_EQ(job.evaluation().max_input_tokens(), 512);
}

TEST_F(JobCheckTest, LooksAtTheDatasetsOfAnEvaluation) {
  PublishMoodVersion();
  Job job = EvaluationJobOf("models/mood");
  auto& task = *job.mutable_evaluation()->mutable_tasks(0);
  task.set_test_dataset("datasets/d-stars");
  EXPECT_THAT(FaultsOf(job), HasSubstr("\"ugly\" (1 rows)"));
  task.set_test_dataset("datasets/d-absent");
  EXPECT_THAT(FaultsOf(job), HasSubstr("evaluation.tasks[0].test_dataset: datasets/d-absent does"));
  job.mutable_evaluation()->set_model_version("models/nothing");
  EXPECT_THAT(FaultsOf(job), HasSubstr("evaluation.model_version: models/nothing does not exist"));
}

}  // namespace
}  // namespace tasuki
