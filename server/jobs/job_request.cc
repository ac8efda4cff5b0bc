#include "server/jobs/job_request.h"

#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "model/errors/errors.h"
#include "model/files/sha256.h"
#include "model/recipe/recipe.h"
#include "server/jobs/job_check.h"

namespace tasuki {
namespace {

using Job = v1::TrainingJob;

constexpr size_t kMaxRequestIdBytes = 128;

std::string NewId() {
  constexpr absl::string_view kDigits = "0123456789abcdefghijklmnopqrstuvwxyz";
  std::random_device random;
  std::uniform_int_distribution<size_t> digit(0, kDigits.size() - 1);
  std::string id = "j-";
  for (int i = 0; i < 12; ++i) id += kDigits[digit(random)];
  return id;
}

// What a client may set; the rest is ours.
Job InputOf(const Job& given) {
  Job job;
  job.set_display_name(given.display_name());
  job.set_model(given.model());
  if (given.has_fine_tuning()) *job.mutable_fine_tuning() = given.fine_tuning();
  if (given.has_pretraining()) *job.mutable_pretraining() = given.pretraining();
  if (given.has_evaluation()) *job.mutable_evaluation() = given.evaluation();
  if (given.has_deploy_on_success()) *job.mutable_deploy_on_success() = given.deploy_on_success();
  return job;
}

}  // namespace

std::string DigestOf(const v1::CreateTrainingJobRequest& request) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  request.SerializeToCodedStream(&coded);
  coded.Trim();
  return Sha256Of(bytes);
}

absl::StatusOr<Job> MakeJob(Store& store, const DataDirectory& data, bool trains_in_bf16,
                            const v1::CreateTrainingJobRequest& request) {
  Faults faults;
  const std::string& id = request.training_job_id();
  if (!id.empty() && !IsResourceId(id)) {
    faults.Add("training_job_id",
               absl::StrCat(Quote(id), " is not of the form [a-z]([a-z0-9-]{0,61}[a-z0-9])?"));
  }
  if (request.request_id().size() > kMaxRequestIdBytes) {
    faults.Add("request_id", absl::StrCat("has ", request.request_id().size(), " bytes; ",
                                          kMaxRequestIdBytes, " are allowed, a UUID has 36"));
  }
  Job job = InputOf(request.training_job());
  ResolveJob(job, faults);
  const auto& recipe =
      job.has_pretraining() ? job.pretraining().recipe() : job.fine_tuning().recipe();
  if (recipe.precision() == v1::Recipe::BF16 && !trains_in_bf16) {
    faults.Add(
        absl::StrCat(job.has_pretraining() ? "pretraining" : "fine_tuning", ".recipe.precision"),
        "BF16 needs a CPU with AVX512-BF16 and AVX512-VNNI, or a GPU, and this server has "
        "neither; use FP32");
  }
  if (absl::Status status = CheckJob(store, data, job, faults); !status.ok()) return status;
  if (absl::Status status = faults.ToStatus(); !status.ok()) return status;
  job.set_name(absl::StrCat("trainingJobs/", id.empty() ? NewId() : id));
  job.set_state(Job::QUEUED);
  return job;
}

}  // namespace tasuki
