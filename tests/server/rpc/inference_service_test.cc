// The Open Inference Protocol over a real channel.

#include <gmock/gmock.h>

#include <cmath>
#include <thread>

#include "inference/inference.grpc.pb.h"
#include "tests/server/rpc/server_fixture.h"
#include "tests/testing/tiny_model.h"

namespace tasuki {
namespace {

using inference::GRPCInferenceService;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class InferenceServiceTest : public ServerFixture {
 protected:
  // models/tiny with two versions, the second with the task "taste" too.
  InferenceServiceTest() {
    Publish("trainingJobs/first", {TinyTask("mood")});
    Publish("trainingJobs/second", {TinyTask("mood"), TinyTask("taste")});
    stub_ = GRPCInferenceService::NewStub(channel_);
  }

  void Publish(const std::string& key, const std::vector<v1::Task>& tasks) {
    const std::string directory = data_->aside() + "/tiny";
    ASSERT_TRUE(WriteTinyModel(directory, tasks).ok());
    const auto version = registry_->Publish(
        {.model = "models/tiny", .directory = directory, .key = key, .load = true});
    ASSERT_TRUE(version.ok()) << version.status();
  }

  static inference::ModelInferRequest RequestOf(const std::vector<std::string>& texts,
                                                const std::string& version = "1") {
    inference::ModelInferRequest request;
    request.set_model_name("tiny");
    request.set_model_version(version);
    auto& input = *request.add_inputs();
    input.set_name("text");
    input.set_datatype("BYTES");
    input.add_shape(static_cast<int64_t>(texts.size()));
    for (const std::string& text : texts) input.mutable_contents()->add_bytes_contents(text);
    return request;
  }
  // Calls a method with a request made from fields, and answers its response.
  template <typename Request, typename Response>
  grpc::Status Call(grpc::Status (GRPCInferenceService::Stub::*method)(grpc::ClientContext*,
                                                                       const Request&, Response*),
                    const Request& request, Response* response) {
    grpc::ClientContext context;
    return (stub_.get()->*method)(&context, request, response);
  }
  grpc::Status Infer(const inference::ModelInferRequest& request,
                     inference::ModelInferResponse* response) {
    return Call(&GRPCInferenceService::Stub::ModelInfer, request, response);
  }
  bool Ready(const std::string& name, const std::string& version = "") {
    inference::ModelReadyRequest request;
    request.set_name(name);
    request.set_version(version);
    inference::ModelReadyResponse response;
    EXPECT_TRUE(Call(&GRPCInferenceService::Stub::ModelReady, request, &response).ok());
    return response.ready();
  }

  std::unique_ptr<GRPCInferenceService::Stub> stub_;
};

TEST_F(InferenceServiceTest, AnswersWhatClassifyAnswers) {
  const std::vector<std::string> texts = {"the room was good", "", "良い room", "bad"};
  inference::ModelInferRequest request = RequestOf(texts, "");
  request.set_id("a");
  inference::ModelInferResponse answer;
  ASSERT_TRUE(Infer(request, &answer).ok());
  EXPECT_EQ(answer.id(), "a");
  EXPECT_EQ(answer.model_version(), "2");

  v1::ClassifyRequest same;
  same.set_model("models/tiny");
  same.mutable_texts()->Assign(texts.begin(), texts.end());
  v1::ClassifyResponse expected;
  ASSERT_TRUE(Classify(same, &expected).ok());
  const auto output = [&](const std::string& name) {
    for (const auto& tensor : answer.outputs()) {
      if (tensor.name() == name) return tensor.contents();
    }
    ADD_FAILURE() << "no " << name;
    return inference::InferTensorContents();
  };
  const std::vector<std::string> tasks = {"mood", "taste"};
  for (int task = 0; task < 2; ++task) {
    for (int i = 0; i < expected.results_size(); ++i) {
      const v1::Prediction& prediction = expected.results(i).predictions(task);
      const std::string prefix = tasks[task] + ".";
      EXPECT_EQ(output(prefix + "label").bytes_contents(i), prediction.label());
      EXPECT_EQ(output(prefix + "probability").fp32_contents(i),
                static_cast<float>(prediction.scores(0).probability()));
      EXPECT_EQ(output(prefix + "token_count").int_contents(i), prediction.token_count());
      const int good = prediction.scores(0).label() == "good" ? 0 : 1;
      EXPECT_EQ(output(prefix + "probabilities").fp32_contents(2 * i),
                static_cast<float>(prediction.scores(good).probability()));
    }
  }
}

TEST_F(InferenceServiceTest, ErrorsAreThoseOfTheTable) {
  inference::ModelInferResponse answer;
  inference::ModelInferRequest request = RequestOf({"a"});
  request.set_model_name("nothing");
  request.clear_model_version();
  grpc::Status status = Infer(request, &answer);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ReasonIn(status), "RESOURCE_NOT_FOUND");

  status = Infer(RequestOf({"a"}, "9"), &answer);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);

  request = RequestOf({std::string((1 << 20) + 1, 'x')});
  status = Infer(request, &answer);
  EXPECT_EQ(ReasonIn(status), "LIMIT_EXCEEDED");
  EXPECT_THAT(status.error_message(), HasSubstr("texts[0] has 1048577 bytes"));

  status = Infer(RequestOf({"a", "\xff"}), &answer);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("texts[1]"));

  request = RequestOf({"a"});
  (*request.mutable_parameters())["sequence_id"].set_int64_param(1);
  EXPECT_EQ(Infer(request, &answer).error_code(), grpc::StatusCode::UNIMPLEMENTED);

  request = RequestOf({"a"});
  (*request.mutable_parameters())["timeout"].set_int64_param(1);
  status = Infer(request, &answer);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(ReasonIn(status), "DEADLINE_PASSED");

  ASSERT_TRUE(registry_->Unload("models/tiny/versions/1").ok());
  status = Infer(RequestOf({"a"}), &answer);
  EXPECT_EQ(ReasonIn(status), "MODEL_NOT_LOADED");
}

TEST_F(InferenceServiceTest, AStreamAnswersInOrderAndOutlivesErrors) {
  grpc::ClientContext context;
  auto stream = stub_->ModelStreamInfer(&context);
  constexpr int kRequests = 40;
  std::thread writer([&] {
    for (int i = 0; i < kRequests; ++i) {
      // Long and short ones, and every fifth of a version that does not exist.
      inference::ModelInferRequest request = RequestOf(
          std::vector<std::string>(i % 3 == 0 ? 100 : 1, "the room"), i % 5 == 4 ? "9" : "1");
      request.set_id(std::to_string(i));
      EXPECT_TRUE(stream->Write(request));
    }
    EXPECT_TRUE(stream->WritesDone());
  });
  inference::ModelStreamInferResponse answer;
  for (int i = 0; i < kRequests; ++i) {
    ASSERT_TRUE(stream->Read(&answer)) << i;
    EXPECT_EQ(answer.infer_response().id(), std::to_string(i));
    EXPECT_TRUE(answer.infer_response().parameters().at("triton_final_response").bool_param());
    if (i % 5 == 4) {
      EXPECT_THAT(answer.error_message(), HasSubstr("models/tiny/versions/9 does not exist"));
      EXPECT_EQ(answer.infer_response().outputs_size(), 0);
    } else {
      EXPECT_EQ(answer.error_message(), "");
      EXPECT_EQ(answer.infer_response().outputs(0).shape(0), i % 3 == 0 ? 100 : 1);
    }
  }
  EXPECT_FALSE(stream->Read(&answer));
  writer.join();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(InferenceServiceTest, DrainingEndsStreamsAndReadiness) {
  grpc::ClientContext context, after, ready;
  auto stream = stub_->ModelStreamInfer(&context);
  ASSERT_TRUE(stream->Write(RequestOf({"a"})));
  inference::ModelStreamInferResponse answer;
  ASSERT_TRUE(stream->Read(&answer));

  inference_service_->Drain();
  EXPECT_FALSE(stream->Read(&answer));
  grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonIn(status), "DRAINING");
  auto late = stub_->ModelStreamInfer(&after);
  EXPECT_FALSE(late->Read(&answer));
  EXPECT_EQ(ReasonIn(late->Finish()), "DRAINING");
  inference::ServerReadyResponse response;
  ASSERT_TRUE(stub_->ServerReady(&ready, {}, &response).ok());
  EXPECT_FALSE(response.ready());
}

TEST_F(InferenceServiceTest, CancelledStreamsGoAway) {
  for (int i = 0; i < 20; ++i) {
    grpc::ClientContext context;
    auto stream = stub_->ModelStreamInfer(&context);
    for (int j = 0; j < i % 7; ++j) {
      stream->Write(RequestOf(std::vector<std::string>(50, "the room")));
    }
    context.TryCancel();
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  const absl::Time begin = absl::Now();
  Shutdown();
  EXPECT_LT(absl::Now() - begin, absl::Seconds(4)) << "none holds it up";
}

TEST_F(InferenceServiceTest, TellsWhatItIsAndHas) {
  inference::ServerLiveResponse live;
  ASSERT_TRUE(Call(&GRPCInferenceService::Stub::ServerLive, {}, &live).ok());
  EXPECT_TRUE(live.live());
  inference::ServerReadyResponse ready;
  ASSERT_TRUE(Call(&GRPCInferenceService::Stub::ServerReady, {}, &ready).ok());
  EXPECT_TRUE(ready.ready());
  inference::ServerMetadataResponse server;
  ASSERT_TRUE(Call(&GRPCInferenceService::Stub::ServerMetadata, {}, &server).ok());
  EXPECT_EQ(server.name(), "tasuki");

  EXPECT_TRUE(Ready("tiny"));
  EXPECT_TRUE(Ready("tiny", "1"));
  EXPECT_FALSE(Ready("tiny", "9"));
  EXPECT_FALSE(Ready("other"));
  EXPECT_FALSE(Ready("No name"));

  inference::ModelMetadataRequest request;
  request.set_name("tiny");
  inference::ModelMetadataResponse metadata;
  ASSERT_TRUE(Call(&GRPCInferenceService::Stub::ModelMetadata, request, &metadata).ok());
  EXPECT_THAT(metadata.versions(), ElementsAre("1", "2"));
  EXPECT_EQ(metadata.outputs_size(), 14) << "of the newest version";
  request.set_version("1");
  metadata.Clear();
  ASSERT_TRUE(Call(&GRPCInferenceService::Stub::ModelMetadata, request, &metadata).ok());
  EXPECT_EQ(metadata.outputs(0).name(), "label");
  request.set_version("9");
  EXPECT_EQ(Call(&GRPCInferenceService::Stub::ModelMetadata, request, &metadata).error_code(),
            grpc::StatusCode::NOT_FOUND);

  const grpc::Status refused = [&] {
    inference::NotOffered nothing;
    return Call(&GRPCInferenceService::Stub::TraceSetting, {}, &nothing);
  }();
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_THAT(refused.error_message(), HasSubstr("not offered"));
}

TEST_F(InferenceServiceTest, LoadsAndUnloadsInBothDialects) {
  const auto index = [&](bool ready) {
    inference::RepositoryIndexRequest request;
    request.set_ready(ready);
    inference::RepositoryIndexResponse response;
    EXPECT_TRUE(Call(&GRPCInferenceService::Stub::RepositoryIndex, request, &response).ok());
    std::vector<std::string> rows;
    for (const auto& row : response.models()) {
      rows.push_back(row.name() + "@" + row.version() + " " + row.state());
    }
    return rows;
  };
  EXPECT_THAT(index(false), ElementsAre("tiny@2 READY", "tiny@1 READY"));

  inference::RepositoryModelUnloadRequest unload;
  unload.set_repository_name("tiny");  // KServe's model_name
  inference::RepositoryModelUnloadResponse unloaded;
  ASSERT_TRUE(Call(&GRPCInferenceService::Stub::RepositoryModelUnload, unload, &unloaded).ok());
  EXPECT_EQ(unloaded.model_name(), "tiny");
  EXPECT_TRUE(unloaded.is_unloaded());
  EXPECT_THAT(index(false), ElementsAre("tiny@2 UNAVAILABLE", "tiny@1 UNAVAILABLE"));
  EXPECT_THAT(index(true), IsEmpty());
  EXPECT_FALSE(Ready("tiny"));

  inference::RepositoryModelLoadRequest load;
  load.set_model_name("tiny");
  (*load.mutable_parameters())["config"].set_string_param("{}");
  inference::RepositoryModelLoadResponse loaded;
  EXPECT_EQ(Call(&GRPCInferenceService::Stub::RepositoryModelLoad, load, &loaded).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
  load.clear_parameters();
  ASSERT_TRUE(Call(&GRPCInferenceService::Stub::RepositoryModelLoad, load, &loaded).ok());
  EXPECT_TRUE(loaded.is_loaded());
  EXPECT_THAT(index(true), ElementsAre("tiny@2 READY"));

  load.set_model_name("other");
  EXPECT_EQ(Call(&GRPCInferenceService::Stub::RepositoryModelLoad, load, &loaded).error_code(),
            grpc::StatusCode::NOT_FOUND);
  unload.set_model_name("other");
  EXPECT_EQ(
      Call(&GRPCInferenceService::Stub::RepositoryModelUnload, unload, &unloaded).error_code(),
      grpc::StatusCode::NOT_FOUND);
}

TEST_F(InferenceServiceTest, CountsWhatVersionsAnswer) {
  inference::ModelInferResponse answer;
  ASSERT_TRUE(Infer(RequestOf({"a", "b", "c"}), &answer).ok());
  ASSERT_TRUE(Infer(RequestOf({"a"}), &answer).ok());
  inference::ModelInferRequest late = RequestOf({"a"});
  (*late.mutable_parameters())["timeout"].set_int64_param(1);
  EXPECT_FALSE(Infer(late, &answer).ok());

  inference::ModelStatisticsRequest request;
  inference::ModelStatisticsResponse all;
  ASSERT_TRUE(Call(&GRPCInferenceService::Stub::ModelStatistics, request, &all).ok());
  EXPECT_EQ(all.model_stats_size(), 2);
  request.set_name("tiny");
  request.set_version("1");
  inference::ModelStatisticsResponse response;
  ASSERT_TRUE(Call(&GRPCInferenceService::Stub::ModelStatistics, request, &response).ok());
  ASSERT_EQ(response.model_stats_size(), 1);
  const auto& statistics = response.model_stats(0);
  EXPECT_EQ(statistics.version(), "1");
  EXPECT_EQ(statistics.inference_count(), 4);
  EXPECT_EQ(statistics.inference_stats().success().count(), 2);
  EXPECT_EQ(statistics.inference_stats().fail().count(), 1);
  EXPECT_EQ(statistics.inference_stats().compute_infer().count(), statistics.execution_count());
  EXPECT_GE(statistics.inference_stats().success().ns(),
            statistics.inference_stats().compute_input().ns());
  EXPECT_GT(statistics.inference_stats().compute_infer().ns(), 0);
  EXPECT_GT(statistics.last_inference(), absl::ToUnixMillis(absl::Now() - absl::Minutes(5)));
  request.set_version("9");
  EXPECT_EQ(Call(&GRPCInferenceService::Stub::ModelStatistics, request, &response).error_code(),
            grpc::StatusCode::NOT_FOUND);
}

}  // namespace
}  // namespace tasuki
