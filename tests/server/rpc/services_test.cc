// The services over a real channel: what a caller gets for right and wrong requests.

#include <gmock/gmock.h>

#include <thread>

#include "model/files/sha256.h"
#include "tests/server/rpc/server_fixture.h"
#include "tests/testing/tiny_model.h"

namespace tasuki {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class ServicesTest : public ServerFixture {
 protected:
  // Publishes a tiny model with the tasks "mood" and "taste" as models/tiny, loaded; with files in
  // the place of an adapter if asked.
  void PublishTiny(bool adapter = false, const std::string& key = "trainingJobs/t") {
    const std::string directory = data_->aside() + "/tiny";
    const absl::Status written = WriteTinyModel(directory, {TinyTask("mood"), TinyTask("taste")});
    ASSERT_TRUE(written.ok()) << written;
    if (adapter) {
      ASSERT_TRUE(MakeDirectories(directory + "/adapter").ok());
      for (const char* name : {"adapter_config.json", "adapter_model.safetensors"}) {
        ASSERT_TRUE(WriteFile(directory + "/adapter/" + name, name).ok());
      }
      auto manifest = *ReadManifest(directory);
      manifest.mutable_lora()->set_rank(4);
      ASSERT_TRUE(WriteManifest(directory, manifest).ok());
    }
    const auto version = registry_->Publish(
        {.model = "models/tiny", .directory = directory, .key = key, .load = true});
    ASSERT_TRUE(version.ok()) << version.status();
    ASSERT_EQ(version->state(), v1::ModelVersion::LOADED) << version->state_reason();
  }
  // The files of models/tiny/versions/1 as they arrive.
  grpc::Status Export(bool adapter, std::vector<std::pair<v1::ModelFile, std::string>>& files) {
    grpc::ClientContext context;
    v1::ExportModelVersionRequest request;
    request.set_name("models/tiny/versions/1");
    request.set_adapter(adapter);
    auto reader = v1::ModelService::NewStub(channel_)->ExportModelVersion(&context, request);
    v1::ExportModelVersionResponse message;
    files.clear();
    while (reader->Read(&message)) {
      if (message.has_file()) {
        files.emplace_back(message.file(), "");
      } else {
        files.back().second += message.chunk();
      }
    }
    return reader->Finish();
  }
  static v1::ClassifyRequest RequestOf(const std::string& model,
                                       const std::vector<std::string>& texts) {
    v1::ClassifyRequest request;
    request.set_model(model);
    request.mutable_texts()->Assign(texts.begin(), texts.end());
    return request;
  }
  std::string MetricsText() const { return metrics_.Text(); }
};

TEST_F(ServicesTest, AFileIsCheckedAndNothingStored) {
  auto stub = v1::DatasetService::NewStub(channel_);
  grpc::ClientContext context, again, list_context;
  v1::CheckDatasetResponse checked;
  const auto writer = stub->CheckDataset(&context, &checked);
  v1::CheckDatasetRequest request;
  *request.mutable_header() = Tsv();
  ASSERT_TRUE(writer->Write(request));
  request.set_chunk("text\tlabel\nよい\tpositive\nわるい\t\n");
  ASSERT_TRUE(writer->Write(request));
  writer->WritesDone();
  const grpc::Status status = writer->Finish();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(checked.bad_row_count(), 1);
  ASSERT_EQ(checked.bad_rows_size(), 1);
  EXPECT_EQ(checked.bad_rows(0).row(), 2);
  v1::ListDatasetsResponse list;
  ASSERT_TRUE(stub->ListDatasets(&list_context, {}, &list).ok());
  EXPECT_EQ(list.datasets_size(), 0);
  const auto headless = stub->CheckDataset(&again, &checked);
  headless->Write(request);
  headless->WritesDone();
  EXPECT_EQ(headless->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ServicesTest, UploadedRowsCanBeListedInspectedAndDeleted) {
  const v1::UploadDatasetHeader header = Tsv();
  v1::Dataset dataset;
  const grpc::Status status =
      Upload(&header, {"text\tlab", "el\nよい\tpos", "itive\nわるい\tnegative\n"}, &dataset);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(dataset.row_count(), 2);

  auto stub = v1::DatasetService::NewStub(channel_);
  v1::InspectDatasetRequest inspect;
  inspect.set_name(dataset.name());
  v1::InspectDatasetResponse rows;
  grpc::ClientContext c1, c2, c3, c4;
  ASSERT_TRUE(stub->InspectDataset(&c1, inspect, &rows).ok());
  ASSERT_EQ(rows.examples_size(), 2);
  EXPECT_EQ(rows.examples(1).text(), "わるい");

  inspect.set_report(true);
  grpc::ClientContext c5;
  ASSERT_TRUE(stub->InspectDataset(&c5, inspect, &rows).ok());
  EXPECT_EQ(rows.reports_size(), 1);
  inspect.add_other_datasets("datasets/../x");
  grpc::ClientContext c6;
  EXPECT_EQ(stub->InspectDataset(&c6, inspect, &rows).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);

  v1::ListDatasetsResponse list;
  ASSERT_TRUE(stub->ListDatasets(&c2, {}, &list).ok());
  ASSERT_EQ(list.datasets_size(), 1);
  EXPECT_EQ(list.datasets(0).name(), dataset.name());

  v1::DeleteDatasetRequest remove;
  remove.set_name(dataset.name());
  google::protobuf::Empty empty;
  ASSERT_TRUE(stub->DeleteDataset(&c3, remove, &empty).ok());
  v1::GetDatasetRequest get;
  get.set_name(dataset.name());
  EXPECT_EQ(stub->GetDataset(&c4, get, &dataset).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(ServicesTest, ABadUploadLeavesNothing) {
  v1::Dataset dataset;
  EXPECT_THAT(Upload(nullptr, {"text\n"}, &dataset).error_message(), HasSubstr("header"));
  const v1::UploadDatasetHeader header = Tsv();
  const grpc::Status status = Upload(&header, {"text\tlabel\na\tx\nb\n"}, &dataset);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ReasonIn(status), "ROWS_INVALID");
  EXPECT_THAT(status.error_message(), HasSubstr("row 2"));
  EXPECT_EQ(ReasonIn(Upload(&header, {}, &dataset)), "DATASET_EMPTY");
  EXPECT_THAT(store_->datasets().List(0, "")->rows, IsEmpty());
  EXPECT_THAT(*ListDirectory(data_->aside()), IsEmpty());
}

TEST_F(ServicesTest, AnUploadThatIsBrokenOffLeavesNothing) {
  grpc::ClientContext context;
  v1::Dataset dataset;
  auto stub = v1::DatasetService::NewStub(channel_);
  auto writer = stub->UploadDataset(&context, &dataset);
  v1::UploadDatasetRequest message;
  *message.mutable_header() = Tsv();
  ASSERT_TRUE(writer->Write(message));
  message.set_chunk("text\tlabel\na\tx\n");
  ASSERT_TRUE(writer->Write(message));
  context.TryCancel();
  EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
  Shutdown();  // waits for the handler
  EXPECT_THAT(store_->datasets().List(0, "")->rows, IsEmpty());
  EXPECT_THAT(*ListDirectory(data_->aside()), IsEmpty());
}

TEST_F(ServicesTest, ClassifiesByEveryTask) {
  PublishTiny();
  v1::ClassifyResponse response;
  const grpc::Status status =
      Classify(RequestOf("models/tiny", {"the room was good", ""}), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.model_version(), "models/tiny/versions/1");
  ASSERT_EQ(response.results_size(), 2);
  for (const auto& result : response.results()) {
    ASSERT_EQ(result.predictions_size(), 2);
    EXPECT_EQ(result.predictions(0).task(), "mood");
    EXPECT_EQ(result.predictions(1).task(), "taste");
    EXPECT_EQ(result.predictions(0).scores_size(), 2);
  }
  EXPECT_THAT(MetricsText(),
              HasSubstr("grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Classify\","
                        "grpc_service=\"tasuki.v1.ClassificationService\",grpc_type=\"unary\"} 1"));
}

TEST_F(ServicesTest, AnAliasAnswersAndItsShadowIsComparedAndCounted) {
  PublishTiny();
  PublishTiny(false, "trainingJobs/second");
  const auto stub = v1::ModelService::NewStub(channel_);
  const std::string name = "models/tiny/aliases/production";
  v1::ModelAlias alias;
  const auto set = [&](const std::string& version) {
    grpc::ClientContext context;
    v1::SetModelAliasRequest request;
    request.set_name(name);
    request.set_model_version(version);
    return stub->SetModelAlias(&context, request, &alias);
  };
  EXPECT_EQ(set("models/other/versions/1").error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(set("models/tiny").error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(set("models/tiny/versions/7").error_code(), grpc::StatusCode::NOT_FOUND);
  ASSERT_TRUE(set("models/tiny/versions/1").ok());
  {
    grpc::ClientContext context;
    v1::ShadowModelAliasRequest request;
    request.set_name(name);
    request.set_model_version("models/tiny/versions/2");
    ASSERT_TRUE(stub->ShadowModelAlias(&context, request, &alias).ok());
  }
  v1::ClassifyResponse response;
  ASSERT_TRUE(Classify(RequestOf(name, {"the room was good", "bad"}), &response).ok());
  EXPECT_EQ(response.model_version(), "models/tiny/versions/1") << "never the shadow's";
  // Equal weights, equal labels: two texts for two tasks.
  const std::string counted =
      "tasuki_shadow_predictions_total{model=\"models/tiny/versions/2\",result=\"same\"} 4";
  for (int i = 0; i < 1000 && MetricsText().find(counted) == std::string::npos; ++i) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_THAT(MetricsText(), HasSubstr(counted));
  {
    grpc::ClientContext context;
    v1::ListModelAliasesRequest request;
    request.set_parent("models/tiny");
    v1::ListModelAliasesResponse aliases;
    ASSERT_TRUE(stub->ListModelAliases(&context, request, &aliases).ok());
    ASSERT_EQ(aliases.model_aliases_size(), 1);
    EXPECT_EQ(aliases.model_aliases(0).shadow_model_version(), "models/tiny/versions/2");
  }
}

TEST_F(ServicesTest, TakesNoCompressedMessage) {
  PublishTiny();
  for (const auto algorithm : {GRPC_COMPRESS_GZIP, GRPC_COMPRESS_DEFLATE}) {
    grpc::ClientContext context;
    context.set_compression_algorithm(algorithm);
    v1::ClassifyResponse response;
    const grpc::Status status = v1::ClassificationService::NewStub(channel_)->Classify(
        &context, RequestOf("models/tiny", {std::string(1 << 20, 'x')}), &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED) << status.error_message();
  }
}

TEST_F(ServicesTest, ALargeRequestGetsTheSameAnswers) {
  PublishTiny();
  std::string filler;
  while (filler.size() < 3000) filler += "the room number 7 was good ";
  std::vector<std::string> texts(64, filler);  // far over what a reaction tokenises itself
  texts.push_back("the room was good");
  v1::ClassifyResponse large, small;
  ASSERT_TRUE(Classify(RequestOf("models/tiny", texts), &large).ok());
  ASSERT_TRUE(Classify(RequestOf("models/tiny", {"the room was good"}), &small).ok());
  ASSERT_EQ(large.results_size(), 65);
  EXPECT_TRUE(large.results(0).predictions(0).truncated());
  EXPECT_GT(large.results(0).predictions(0).token_count(), 64);
  EXPECT_NEAR(large.results(64).predictions(0).scores(0).log_probability(),
              small.results(0).predictions(0).scores(0).log_probability(), 1e-4);
}

TEST_F(ServicesTest, SaysWhyItDoesNotClassify) {
  v1::ClassifyResponse response;
  grpc::Status status = Classify(RequestOf("models/none", {"x"}), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ReasonIn(status), "RESOURCE_NOT_FOUND");
  status = Classify(RequestOf("none", {"x"}), &response);
  EXPECT_EQ(ReasonIn(status), "FIELD_INVALID");
  PublishTiny();
  status = Classify(RequestOf("models/tiny", {}), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  v1::ClassifyRequest request = RequestOf("models/tiny", {"x"});
  request.add_tasks("mod");
  status = Classify(request, &response);
  EXPECT_EQ(ReasonIn(status), "TASK_UNKNOWN");
  EXPECT_THAT(status.error_message(), HasSubstr("mood, taste"));

  auto stub = v1::ModelService::NewStub(channel_);
  grpc::ClientContext c1, c2;
  v1::UnloadModelVersionRequest unload;
  unload.set_name("models/tiny/versions/1");
  v1::ModelVersion version;
  ASSERT_TRUE(stub->UnloadModelVersion(&c1, unload, &version).ok());
  EXPECT_EQ(version.state(), v1::ModelVersion::UNLOADED);
  status = Classify(RequestOf("models/tiny", {"x"}), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(ReasonIn(status), "MODEL_NOT_LOADED");
  v1::LoadModelVersionRequest load;
  load.set_name("models/tiny");
  ASSERT_TRUE(stub->LoadModelVersion(&c2, load, &version).ok());
  EXPECT_TRUE(Classify(RequestOf("models/tiny", {"x"}), &response).ok());
}

TEST_F(ServicesTest, DoesNotComputeWhatComesTooLate) {
  PublishTiny();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() - std::chrono::seconds(1));
  v1::ClassifyResponse response;
  const grpc::Status status = v1::ClassificationService::NewStub(channel_)->Classify(
      &context, RequestOf("models/tiny", {"x"}), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(ServicesTest, AnswersManyCallersAtOnce) {
  PublishTiny();
  std::atomic<int> right = 0;
  std::vector<std::thread> callers;
  for (int i = 0; i < 8; ++i) {
    callers.emplace_back([&] {
      for (int call = 0; call < 25; ++call) {
        v1::ClassifyResponse response;
        right += Classify(RequestOf("models/tiny", {"the room was good", "bad"}), &response).ok() &&
                 response.results_size() == 2;
      }
    });
  }
  for (auto& caller : callers) caller.join();
  EXPECT_EQ(right, 8 * 25);
}

TEST_F(ServicesTest, ExportsEveryFileOfAVersion) {
  PublishTiny();
  std::vector<std::pair<v1::ModelFile, std::string>> files;
  ASSERT_TRUE(Export(/*adapter=*/false, files).ok());
  ASSERT_GE(files.size(), 4);
  for (const auto& [file, bytes] : files) EXPECT_EQ(Sha256Of(bytes), file.sha256()) << file.name();
  const grpc::Status status = Export(/*adapter=*/true, files);
  EXPECT_EQ(ReasonIn(status), "FIELD_INVALID");
  EXPECT_THAT(status.error_message(), HasSubstr("models/tiny/versions/1 has none"));
}

TEST_F(ServicesTest, ExportsAnAdapterByItself) {
  PublishTiny(/*adapter=*/true);
  std::vector<std::pair<v1::ModelFile, std::string>> files;
  ASSERT_TRUE(Export(/*adapter=*/true, files).ok());
  ASSERT_EQ(files.size(), 2);
  EXPECT_EQ(files[0].first.name(), "adapter_config.json");
  EXPECT_EQ(files[1].first.name(), "adapter_model.safetensors");
  for (const auto& [file, bytes] : files) EXPECT_EQ(Sha256Of(bytes), file.sha256()) << file.name();
  EXPECT_EQ(store_->models().GetVersion("models/tiny")->lora().rank(), 4);
}

TEST_F(ServicesTest, AnImportThatFailsItsCheckLeavesNothing) {
  grpc::ClientContext context;
  v1::ModelVersion version;
  auto stub = v1::ModelService::NewStub(channel_);
  auto writer = stub->ImportModelVersion(&context, &version);
  v1::ImportModelVersionRequest message;
  message.mutable_header()->set_model("models/new");
  for (const char* name : {"config.json", "model.safetensors", "spiece.model"}) {
    v1::ModelFile& file = *message.mutable_header()->add_files();
    file.set_name(name);
    file.set_size_bytes(1);
    file.set_sha256(Sha256Of("x"));
  }
  ASSERT_TRUE(writer->Write(message));
  message.set_chunk("xxx");
  ASSERT_TRUE(writer->Write(message));
  writer->WritesDone();
  const grpc::Status status = writer->Finish();  // the trainer of this server is /bin/false
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ReasonIn(status), "MODEL_INVALID");
  EXPECT_THAT(*ListDirectory(data_->aside()), IsEmpty());
  EXPECT_THAT(store_->models().ListModels(0, "")->rows, IsEmpty());
}

TEST_F(ServicesTest, RefusesNamesOfAWrongForm) {
  auto training = v1::TrainingService::NewStub(channel_);
  auto models = v1::ModelService::NewStub(channel_);
  grpc::ClientContext c1, c2, c3;
  v1::GetTrainingJobRequest get;
  get.set_name("trainingJobs/../x");
  v1::TrainingJob job;
  EXPECT_EQ(ReasonIn(training->GetTrainingJob(&c1, get, &job)), "FIELD_INVALID");
  v1::DeleteModelVersionRequest remove;
  remove.set_name("models/x");
  google::protobuf::Empty empty;
  EXPECT_EQ(ReasonIn(models->DeleteModelVersion(&c2, remove, &empty)), "FIELD_INVALID");
  v1::ListModelsRequest list;
  list.set_page_token("not mine");
  v1::ListModelsResponse page;
  EXPECT_EQ(ReasonIn(models->ListModels(&c3, list, &page)), "PAGE_TOKEN_INVALID");
}

TEST_F(ServicesTest, ListsJobsOfStatesThatThereAreOnly) {
  auto training = v1::TrainingService::NewStub(channel_);
  grpc::ClientContext c1, c2;
  v1::ListTrainingJobsRequest list;
  v1::ListTrainingJobsResponse page;
  // As often as a client likes.
  for (int i = 0; i < 500'000; ++i) list.add_states(v1::TrainingJob::RUNNING);
  EXPECT_TRUE(training->ListTrainingJobs(&c1, list, &page).ok());
  list.add_states(static_cast<v1::TrainingJob::State>(99));
  const grpc::Status status = training->ListTrainingJobs(&c2, list, &page);
  EXPECT_EQ(ReasonIn(status), "FIELD_INVALID");
  EXPECT_THAT(status.error_message(), HasSubstr("99 is not a state"));
}

TEST_F(ServicesTest, TellsWhatRuns) {
  PublishTiny();
  grpc::ClientContext context;
  v1::ServerInfo info;
  ASSERT_TRUE(v1::ServerService::NewStub(channel_)->GetServerInfo(&context, {}, &info).ok());
  EXPECT_EQ(info.version(), "1.2.3");
  EXPECT_THAT(info.loaded_model_versions(), ElementsAre("models/tiny/versions/1"));
}

TEST_F(ServicesTest, TextsThatAreNotUtf8NeverReachTheTokenizer) {
  PublishTiny();
  v1::ClassifyResponse response;
  const grpc::Status status = Classify(RequestOf("models/tiny", {"\xff\xfe"}), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ReasonIn(status), "FIELD_INVALID");
  EXPECT_TRUE(Classify(RequestOf("models/tiny", {"still alive"}), &response).ok());
}

}  // namespace
}  // namespace tasuki
