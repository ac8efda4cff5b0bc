// What people get wrong: each has a clear error of the canonical code, and the server stays as it
// was.

#include <gmock/gmock.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_join.h"
#include "tests/integration/world.h"

namespace tasuki {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::MatchesRegex;

class BadInput : public testing::Test {
 protected:
  BadInput() : tasukid_(TheWorld().data_dir) { before_ = Counts(); }
  ~BadInput() override {
    EXPECT_EQ(Counts(), before_);
    EXPECT_TRUE(std::filesystem::is_empty(TheWorld().data_dir + "/aside"));
  }

  // Numbers of datasets and jobs.
  std::pair<int, int> Counts() {
    grpc::ClientContext first, second;
    v1::ListDatasetsResponse datasets;
    v1::ListTrainingJobsResponse jobs;
    EXPECT_TRUE(tasukid_.datasets->ListDatasets(&first, {}, &datasets).ok());
    EXPECT_TRUE(tasukid_.training->ListTrainingJobs(&second, {}, &jobs).ok());
    return {datasets.datasets_size(), jobs.training_jobs_size()};
  }
  grpc::Status UploadTsv(const std::string& bytes, const std::string& label_column = "label") {
    v1::UploadDatasetHeader header;
    header.mutable_format()->set_kind(v1::DatasetFormat::TSV);
    header.mutable_format()->set_label_column(label_column);
    v1::Dataset dataset;
    return tasukid_.Upload(header, bytes, &dataset);
  }
  grpc::Status Create(const v1::TrainingJob& job) {
    v1::TrainingJob created;
    return tasukid_.Create(job, &created);
  }
  static void ExpectError(const grpc::Status& status, grpc::StatusCode code,
                          v1::ErrorReason reason) {
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_EQ(ReasonOf(status), reason) << status.error_message();
    EXPECT_THAT(status.error_message(), testing::Not(""));
  }

  Tasukid tasukid_;
  std::pair<int, int> before_;
};

TEST_F(BadInput, FilesAreRefusedWithRowColumnAndValue) {
  ExpectError(UploadTsv(""), grpc::INVALID_ARGUMENT, v1::DATASET_EMPTY);
  ExpectError(UploadTsv("text\tlabel\n"), grpc::INVALID_ARGUMENT, v1::DATASET_EMPTY);
  ExpectError(UploadTsv("text\tlabel\na\tb\n", "stars"), grpc::INVALID_ARGUMENT,
              v1::COLUMN_MISSING);
  ExpectError(UploadTsv("\x1f\x8b\x08\x00 gzip"), grpc::INVALID_ARGUMENT, v1::UNSUPPORTED_FORMAT);

  const grpc::Status not_utf8 = UploadTsv("text\tlabel\ngood\tx\nbad \xff\tx\n");
  ExpectError(not_utf8, grpc::INVALID_ARGUMENT, v1::ROWS_INVALID);
  EXPECT_THAT(not_utf8.error_message(), HasSubstr("row 2"));

  const grpc::Status huge = UploadTsv("text\tlabel\n" + std::string((1 << 20) + 1, 'x') + "\tx\n");
  ExpectError(huge, grpc::INVALID_ARGUMENT, v1::ROWS_INVALID);
  EXPECT_THAT(huge.error_message(), HasSubstr("row 1"));
}

TEST_F(BadInput, UnknownThingsOfAJobAreNamedAllAtOnce) {
  v1::TrainingJob job = LongJob("models/unmade");
  auto& work = *job.mutable_fine_tuning();
  work.set_base_model_version("models/nothing");
  work.mutable_tasks(0)->set_train_dataset("datasets/d-0123456789abcdef");
  work.mutable_tasks(0)->set_test_dataset(TheWorld().counterfactual);  // labels 0 and 1
  work.mutable_recipe()->set_batch_size(0);
  const grpc::Status status = Create(job);
  ExpectError(status, grpc::INVALID_ARGUMENT, v1::FIELD_INVALID);
  EXPECT_THAT(status.error_message(),
              AllOf(HasSubstr("fine_tuning.base_model_version: models/nothing does not exist"),
                    HasSubstr("fine_tuning.tasks[0].train_dataset: datasets/d-0123456789abcdef"),
                    HasSubstr("fine_tuning.tasks[0].test_dataset"), HasSubstr("\"1\" (32 rows)"),
                    HasSubstr("fine_tuning.recipe.batch_size")));
}

TEST_F(BadInput, ATargetTextThatTheBaseCannotWriteIsRefused) {
  v1::TrainingJob job = LongJob("models/unmade");
  job.mutable_fine_tuning()->mutable_tasks(0)->mutable_labels(0)->set_target_text("Ж");
  ExpectError(Create(job), grpc::INVALID_ARGUMENT, v1::FIELD_INVALID);
}

TEST_F(BadInput, UnknownNamesAreNotFound) {
  grpc::ClientContext job_context, dataset_context, version_context, watch_context;
  v1::GetTrainingJobRequest job;
  job.set_name("trainingJobs/nothing");
  v1::TrainingJob found_job;
  ExpectError(tasukid_.training->GetTrainingJob(&job_context, job, &found_job), grpc::NOT_FOUND,
              v1::RESOURCE_NOT_FOUND);
  v1::GetDatasetRequest dataset;
  dataset.set_name("datasets/d-0123456789abcdef");
  v1::Dataset found_dataset;
  ExpectError(tasukid_.datasets->GetDataset(&dataset_context, dataset, &found_dataset),
              grpc::NOT_FOUND, v1::RESOURCE_NOT_FOUND);
  v1::GetModelVersionRequest version;
  version.set_name("models/nothing/versions/1");
  v1::ModelVersion found_version;
  ExpectError(tasukid_.models->GetModelVersion(&version_context, version, &found_version),
              grpc::NOT_FOUND, v1::RESOURCE_NOT_FOUND);
  v1::WatchTrainingJobRequest watch;
  watch.set_name("trainingJobs/nothing");
  v1::WatchTrainingJobResponse response;
  auto reader = tasukid_.training->WatchTrainingJob(&watch_context, watch);
  EXPECT_FALSE(reader->Read(&response));
  ExpectError(reader->Finish(), grpc::NOT_FOUND, v1::RESOURCE_NOT_FOUND);
}

TEST_F(BadInput, ClassificationsThatCannotBeAreRefused) {
  tasukid_.AwaitLoaded(kReviews);
  v1::ClassifyResponse response;
  ExpectError(tasukid_.Classify("models/nothing", {"a"}, &response), grpc::NOT_FOUND,
              v1::RESOURCE_NOT_FOUND);
  // The base has no task and is never loaded.
  const grpc::Status not_loaded = tasukid_.Classify(kBase, {"a"}, &response);
  ExpectError(not_loaded, grpc::FAILED_PRECONDITION, v1::MODEL_NOT_LOADED);
  ExpectError(tasukid_.Classify(kReviews, {}, &response), grpc::INVALID_ARGUMENT,
              v1::FIELD_INVALID);

  grpc::ClientContext context;
  v1::ClassifyRequest request;
  request.set_model(kReviews);
  request.add_texts("a");
  request.add_tasks("sentiments");
  const grpc::Status unknown = tasukid_.classification->Classify(&context, request, &response);
  ExpectError(unknown, grpc::INVALID_ARGUMENT, v1::TASK_UNKNOWN);
  EXPECT_THAT(unknown.error_message(), HasSubstr("sentiments"));
}

TEST_F(BadInput, ARequestIdIsNotUsedForTwoRequests) {
  v1::CreateTrainingJobRequest request;
  *request.mutable_training_job() = LongJob("models/requested");
  request.set_request_id("3f0c6a52-7a1b-4a0f-8d6b-0b8f6a2f1c77");
  const auto create = [&](v1::TrainingJob* job) {
    grpc::ClientContext context;
    return tasukid_.training->CreateTrainingJob(&context, request, job);
  };
  v1::TrainingJob first, second;
  ASSERT_TRUE(create(&first).ok());
  ASSERT_TRUE(create(&second).ok());
  EXPECT_EQ(second.name(), first.name());
  request.mutable_training_job()->set_display_name("another");
  ExpectError(create(&second), grpc::ALREADY_EXISTS, v1::REQUEST_ID_REUSED);

  grpc::ClientContext cancel_context, delete_context;
  v1::CancelTrainingJobRequest cancel;
  cancel.set_name(first.name());
  ASSERT_TRUE(tasukid_.training->CancelTrainingJob(&cancel_context, cancel, &first).ok());
  EXPECT_EQ(tasukid_.AwaitEnd(first.name()).state(), v1::TrainingJob::CANCELLED);
  v1::DeleteTrainingJobRequest remove;
  remove.set_name(first.name());
  google::protobuf::Empty empty;
  EXPECT_TRUE(tasukid_.training->DeleteTrainingJob(&delete_context, remove, &empty).ok());
}

TEST(ChangedFile, FailsTheJobThatNeedsIt) {
  Tasukid tasukid(TheWorld().data_dir);
  const std::string dataset = tasukid.UploadRows("short-lived", "a\tpositive\nb\tnegative\n");
  v1::TrainingJob job = LongJob("models/unmade");
  job.mutable_fine_tuning()->mutable_tasks(0)->set_train_dataset(dataset);
  std::ofstream(TheWorld().data_dir + "/" + dataset + ".jsonl", std::ios::app) << "{}\n";
  job = tasukid.AwaitEnd(tasukid.Submit(job));
  EXPECT_EQ(job.state(), v1::TrainingJob::FAILED);
  EXPECT_EQ(job.attempt(), 1);
  EXPECT_EQ(job.error().code(), grpc::DATA_LOSS);
  EXPECT_THAT(job.error().message(), HasSubstr(dataset));
}

// A server whose data directory is a volume of 80 MiB in a mount namespace of its own; it keeps
// 64 MiB for jobs.
TEST(FullDisk, AnUploadIsRefusedAndNothingOfItRemains) {
  const TemporaryDirectory volume;
  std::vector<std::string> wrapper = {"unshare", "--mount"};
  if (geteuid() != 0) wrapper.push_back("--map-root-user");
  // In a chroot, whose / is no mount point, unshare cannot make the mounts private.
  const std::string try_it = absl::StrJoin(wrapper, " ") + " true 2>/dev/null";
  const bool is_private = std::system(try_it.c_str()) == 0;
  if (!is_private) wrapper.insert(wrapper.end(), {"--propagation", "unchanged"});
  const absl::Cleanup unmount = [&] {  // what may have become visible outside
    if (!is_private) umount2(volume.path().c_str(), MNT_DETACH);
  };
  wrapper.insert(
      wrapper.end(),
      {"sh", "-c", "mount -t tmpfs -o size=80m tmpfs \"$0\" && exec \"$@\"", volume.path()});
  Tasukid tasukid({.data_dir = volume.path(), .wrapper = wrapper});

  v1::UploadDatasetHeader header;
  header.mutable_format()->set_kind(v1::DatasetFormat::TSV);
  std::string bytes = "text\tlabel\n";
  for (int i = 0; bytes.size() < (24 << 20); ++i) {
    bytes += std::to_string(i) + std::string(1000, 'x') + "\tx\n";
  }
  v1::Dataset dataset;
  const grpc::Status full = tasukid.Upload(header, bytes, &dataset);
  EXPECT_EQ(full.error_code(), grpc::RESOURCE_EXHAUSTED) << full.error_message();
  EXPECT_EQ(ReasonOf(full), v1::DISK_FULL) << full.error_message();

  const std::string seen_by_server =
      "/proc/" + std::to_string(tasukid.pid()) + "/root" + volume.path();
  EXPECT_TRUE(std::filesystem::is_empty(seen_by_server + "/aside"));
  EXPECT_EQ(tasukid.UploadRows("small", "a\tx\n").rfind("datasets/d-", 0), 0);
  grpc::ClientContext context;
  v1::ListDatasetsResponse response;
  ASSERT_TRUE(tasukid.datasets->ListDatasets(&context, {}, &response).ok());
  EXPECT_EQ(response.datasets_size(), 1);
}

}  // namespace
}  // namespace tasuki
