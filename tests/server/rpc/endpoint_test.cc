#include "server/rpc/endpoint.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <iostream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "grpcpp/generic/generic_stub.h"
#include "server/rpc/observer.h"
#include "tests/server/rpc/server_fixture.h"

namespace tasuki {
namespace {

using testing::HasSubstr;

// A message as bytes: health and reflection have no generated code here, and need none.
// Field 1 is a string (service name), or, in a reflection request, field 7 (list_services) or 4
// (file_containing_symbol).
std::string Field(int number, const std::string& value) {
  return std::string(1, static_cast<char>(number << 3 | 2)) +
         std::string(1, static_cast<char>(value.size())) + value;
}

std::string Bytes(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(buffer.Dump(&slices).ok());
  std::string bytes;
  for (const auto& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

// Sends one message and answers the first one that comes back.
grpc::Status Call(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                  const std::string& message, std::string* answer) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  auto call = stub.PrepareCall(&context, method, &queue);
  const auto wait = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  call->StartCall(nullptr);
  wait();
  const grpc::Slice slice(message);
  call->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), nullptr);
  wait();
  grpc::ByteBuffer buffer;
  call->Read(&buffer, nullptr);
  if (wait()) *answer = Bytes(buffer);
  grpc::Status status;
  call->Finish(&status, nullptr);
  wait();
  return status;
}

constexpr char kHealth[] = "/grpc.health.v1.Health/Check";
const std::string kServing("\x08\x01", 2);     // HealthCheckResponse{SERVING}
const std::string kNotServing("\x08\x02", 2);  // HealthCheckResponse{NOT_SERVING}

class EndpointTest : public ServerFixture {
 protected:
  std::string Health(const std::string& service) {
    std::string answer;
    const grpc::Status status = Call(channel_, kHealth, Field(1, service), &answer);
    return status.ok() ? answer : status.error_message();
  }

  // An upload that the server has begun to answer.
  std::unique_ptr<grpc::ClientWriter<v1::UploadDatasetRequest>> BeginUpload(
      grpc::ClientContext& context, v1::Dataset& dataset) {
    auto writer = v1::DatasetService::NewStub(channel_)->UploadDataset(&context, &dataset);
    v1::UploadDatasetRequest message;
    *message.mutable_header() = Tsv();
    EXPECT_TRUE(writer->Write(message));
    while (metrics_.Text().find("grpc_server_in_flight_requests{grpc_method=\"UploadDataset\","
                                "grpc_service=\"tasuki.v1.DatasetService\"} 1") ==
           std::string::npos) {
      std::this_thread::yield();
    }
    return writer;
  }
};

TEST_F(EndpointTest, HealthFollowsWhatTheServerSays) {
  const auto services = {"", "tasuki.v1.ClassificationService", "inference.GRPCInferenceService"};
  for (const char* service : services) {
    EXPECT_EQ(Health(service), kServing);
  }
  endpoint_->SetServing(false);
  for (const char* service : services) {
    EXPECT_EQ(Health(service), kNotServing);
  }
}

TEST_F(EndpointTest, ReflectionListsEveryService) {
  std::string answer;
  Call(channel_, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Field(7, "*"),
       &answer);
  for (const char* service :
       {"tasuki.v1.DatasetService", "tasuki.v1.TrainingService", "tasuki.v1.ModelService",
        "tasuki.v1.ClassificationService", "tasuki.v1.ServerService", "grpc.health.v1.Health",
        "inference.GRPCInferenceService"}) {
    EXPECT_THAT(answer, HasSubstr(service));
  }
}

TEST_F(EndpointTest, ReflectionShowsWhatAServiceTakes) {
  for (const char* service :
       {"tasuki.v1.ServerService", "grpc.health.v1.Health", "inference.GRPCInferenceService"}) {
    std::string answer;  // field 4: the file that has the symbol
    Call(channel_, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
         Field(4, service), &answer);
    EXPECT_THAT(answer, HasSubstr("proto3")) << service;
    EXPECT_THAT(answer, ::testing::Not(HasSubstr("not found"))) << service;
  }
}

TEST_F(EndpointTest, AnEndpointWithoutServicesAnswersHealthOnly) {
  auto health = Endpoint::Listen({"127.0.0.1:0", 4, {}}, metrics_);
  ASSERT_TRUE(health.ok()) << health.status();
  const auto channel =
      grpc::CreateChannel((*health)->address(), grpc::InsecureChannelCredentials());
  std::string answer;
  EXPECT_TRUE(Call(channel, kHealth, Field(1, ""), &answer).ok());
  EXPECT_EQ(answer, kNotServing) << "until it is told";
  (*health)->SetServing(true);
  EXPECT_TRUE(Call(channel, kHealth, Field(1, ""), &answer).ok());
  EXPECT_EQ(answer, kServing);
  grpc::ClientContext context;
  v1::ServerInfo info;
  EXPECT_EQ(v1::ServerService::NewStub(channel)->GetServerInfo(&context, {}, &info).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(EndpointTest, RefusesAnAddressThatIsInUse) {
  const auto second = Endpoint::Listen({endpoint_->address(), 4, {}}, metrics_);
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status()));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(endpoint_->address()));
}

TEST_F(EndpointTest, ClosesAConnectionWithoutCallsWhosePeerHasVanished) {
  auto endpoint = Endpoint::Listen({.address = "127.0.0.1:0",
                                    .max_threads = 4,
                                    .ping_after = absl::Milliseconds(200),
                                    .pong_within = absl::Milliseconds(200)},
                                   metrics_);
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  const std::string& address = (*endpoint)->address();
  sockaddr_in server = {};
  server.sin_family = AF_INET;
  server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  server.sin_port = htons(std::atoi(address.substr(address.rfind(':') + 1).c_str()));
  const int peer = socket(AF_INET, SOCK_STREAM, 0);
  ASSERT_EQ(connect(peer, reinterpret_cast<sockaddr*>(&server), sizeof(server)), 0);
  const timeval patience = {.tv_sec = 10};
  setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  // The beginning of HTTP/2 with empty SETTINGS; no ping is ever answered.
  const std::string hello("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 33);
  ASSERT_EQ(send(peer, hello.data(), hello.size(), 0), hello.size());
  char bytes[256];
  ssize_t received;
  do {
    received = recv(peer, bytes, sizeof(bytes), 0);
  } while (received > 0);
  EXPECT_EQ(received, 0) << "the connection is open still";
  close(peer);
}

TEST_F(EndpointTest, ShutdownWaitsForNoIdleConnectionAndNoHealthWatch) {
  EXPECT_EQ(Health(""), kServing);
  // A health watch, which has no end.
  grpc::GenericStub stub(channel_);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  auto watch = stub.PrepareCall(&context, "/grpc.health.v1.Health/Watch", &queue);
  void* tag = nullptr;
  bool ok = false;
  watch->StartCall(nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  const grpc::Slice slice(Field(1, ""));
  watch->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  grpc::ByteBuffer buffer;
  watch->Read(&buffer, nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);

  const absl::Time start = absl::Now();
  endpoint_->Shutdown(start + absl::Seconds(20));
  EXPECT_LT(absl::Now() - start, absl::Seconds(2));
  grpc::Status status;
  watch->Finish(&status, nullptr);
  queue.Next(&tag, &ok);
  EXPECT_FALSE(status.ok());
}

TEST_F(EndpointTest, ShutdownLetsACallEndThatIsUnderWay) {
  grpc::ClientContext context;
  v1::Dataset dataset;
  const auto writer = BeginUpload(context, dataset);
  std::thread shutdown([this] { endpoint_->Shutdown(absl::Now() + absl::Seconds(20)); });
  absl::SleepFor(absl::Milliseconds(300));  // longer than idle connections are given
  v1::UploadDatasetRequest message;
  message.set_chunk("text\tlabel\na\tx\n");
  EXPECT_TRUE(writer->Write(message));
  writer->WritesDone();
  const grpc::Status status = writer->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(dataset.row_count(), 1);
  shutdown.join();
}

TEST_F(EndpointTest, ShutdownLosesNoAnswer) {
  std::atomic<int> answers = 0;
  std::atomic<bool> ready = false;
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([&, i] {
      grpc::ChannelArguments own;  // a connection of its own
      own.SetInt("client", i);
      const auto channel =
          grpc::CreateCustomChannel(endpoint_->address(), grpc::InsecureChannelCredentials(), own);
      const auto stub = v1::ServerService::NewStub(channel);
      grpc::Status status;
      while (status.ok()) {
        grpc::ClientContext context;
        v1::ServerInfo info;
        status = stub->GetServerInfo(&context, {}, &info);
        if (status.ok() && ++answers > 100) ready = true;
      }
      // CANCELLED is gRPC's word for a call that comes between its goodbye and the client's ear.
      EXPECT_THAT(status.error_code(),
                  testing::AnyOf(grpc::StatusCode::UNAVAILABLE, grpc::StatusCode::CANCELLED));
    });
  }
  while (!ready) std::this_thread::yield();
  endpoint_->Shutdown(absl::Now() + absl::Seconds(20));
  for (auto& client : clients) client.join();
  EXPECT_THAT(metrics_.Text(),
              HasSubstr("grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"GetServerInfo\","
                        "grpc_service=\"tasuki.v1.ServerService\",grpc_type=\"unary\"} " +
                        std::to_string(answers)));
}

TEST_F(EndpointTest, ShutdownCancelsWhatDoesNotEndInTime) {
  grpc::ClientContext context;
  v1::Dataset dataset;
  const auto writer = BeginUpload(context, dataset);
  const absl::Time start = absl::Now();
  endpoint_->Shutdown(start + absl::Milliseconds(200));
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(200));
  EXPECT_LT(absl::Now() - start, absl::Seconds(3));
  EXPECT_FALSE(writer->Finish().ok());
}

TEST_F(EndpointTest, CountsEveryCallOnceByItsCode) {
  v1::ClassifyResponse response;
  v1::ClassifyRequest request;
  request.set_model("models/none");
  request.add_texts("x");
  for (int i = 0; i < 3; ++i) Classify(request, &response);
  Shutdown();
  const std::string labels =
      "grpc_method=\"Classify\",grpc_service=\"tasuki.v1.ClassificationService\"";
  EXPECT_THAT(metrics_.Text(),
              HasSubstr("grpc_server_started_total{" + labels + ",grpc_type=\"unary\"} 3"));
  EXPECT_THAT(metrics_.Text(), HasSubstr("grpc_server_handled_total{grpc_code=\"NotFound\"," +
                                         labels + ",grpc_type=\"unary\"} 3"));
  EXPECT_THAT(metrics_.Text(), HasSubstr("grpc_server_in_flight_requests{" + labels + "} 0"));
}

// A scraper keeps all of them.
TEST(CallObserver, TwentyModelsTakeFewerThan5000Series) {
  Metrics metrics;
  CallsUnderWay calls;
  const CallObserver observer(metrics, calls);
  std::vector<std::unique_ptr<ModelMetrics>> models;
  for (int i = 1; i <= 20; ++i) {
    ServedModel model;
    model.name = absl::StrCat("models/reviews/versions/", i);
    model.tasks = {{"counterfactual", {"factual", "counterfactual"}},
                   {"sentiment", {"negative", "neutral", "positive"}}};
    models.push_back(metrics.ForModel(model));
  }
  int series = 0;
  for (const absl::string_view line : absl::StrSplit(metrics.Text(), '\n')) {
    series += !line.empty() && line[0] != '#';
  }
  EXPECT_GT(series, 3000);
  EXPECT_LT(series, 5000);
  std::cout << series << " series of 20 models with two tasks\n";
}

}  // namespace
}  // namespace tasuki
