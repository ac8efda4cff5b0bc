// An adapter from a job to an answer, with the real binaries.

#include <gmock/gmock.h>

#include <map>

#include "tests/integration/world.h"

namespace tasuki {
namespace {

using testing::HasSubstr;

v1::TrainingJob AdapterJob() {
  v1::TrainingJob job = LongJob("models/adapted");
  job.mutable_fine_tuning()->mutable_recipe()->set_steps(30);
  job.mutable_fine_tuning()->mutable_lora()->set_rank(4);
  return job;
}

// Sizes of the files that an export sends.
std::map<std::string, size_t> Export(Tasukid& tasukid, const std::string& name, bool adapter) {
  grpc::ClientContext context;
  v1::ExportModelVersionRequest request;
  request.set_name(name);
  request.set_adapter(adapter);
  const auto reader = tasukid.models->ExportModelVersion(&context, request);
  v1::ExportModelVersionResponse part;
  std::map<std::string, size_t> sizes;
  std::string file;
  while (reader->Read(&part)) {
    if (part.has_file()) file = part.file().name();
    sizes[file] += part.chunk().size();
  }
  EXPECT_TRUE(reader->Finish().ok());
  return sizes;
}

TEST(Lora, AJobPublishesAVersionThatAnswersWithItsAdapterBeside) {
  Tasukid tasukid(TheWorld().data_dir);
  const v1::TrainingJob ended = tasukid.AwaitEnd(tasukid.Submit(AdapterJob()));
  ASSERT_EQ(ended.state(), v1::TrainingJob::SUCCEEDED) << ended.error().message();
  v1::ClassifyResponse response;
  const grpc::Status status = tasukid.Classify("models/adapted", {"最高です。"}, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.model_version(), ended.model_version());

  grpc::ClientContext context;
  v1::GetModelVersionRequest request;
  request.set_name(ended.model_version());
  v1::ModelVersion version;
  ASSERT_TRUE(tasukid.models->GetModelVersion(&context, request, &version).ok());
  EXPECT_EQ(version.lora().DebugString(), ended.fine_tuning().lora().DebugString());
  EXPECT_EQ(version.base_model_version(), kBase);

  const auto whole = Export(tasukid, version.name(), /*adapter=*/false);
  const auto adapter = Export(tasukid, version.name(), /*adapter=*/true);
  ASSERT_EQ(adapter.size(), 2);
  for (const auto& [name, size] : adapter) EXPECT_EQ(whole.at("adapter/" + name), size) << name;
  EXPECT_LT(adapter.at("adapter_model.safetensors"), whole.at("model.safetensors") / 4);

  // Its weights are complete: the next job may start from it, also with an adapter of its own.
  v1::TrainingJob next = AdapterJob();
  next.mutable_fine_tuning()->set_base_model_version(version.name());
  next.mutable_fine_tuning()->mutable_lora()->add_target_modules("wo");
  const v1::TrainingJob second = tasukid.AwaitEnd(tasukid.Submit(next));
  EXPECT_EQ(second.state(), v1::TrainingJob::SUCCEEDED) << second.error().message();
}

TEST(Lora, AModuleThatTheBaseLacksIsRefusedAtOnce) {
  Tasukid tasukid(TheWorld().data_dir);
  v1::TrainingJob job = AdapterJob(), created;
  job.mutable_fine_tuning()->mutable_lora()->add_target_modules("wi_0");
  const grpc::Status status = tasukid.Create(job, &created);
  EXPECT_EQ(ReasonOf(status), v1::FIELD_INVALID);
  EXPECT_THAT(status.error_message(), HasSubstr("has no module \"wi_0\""));
}

}  // namespace
}  // namespace tasuki
