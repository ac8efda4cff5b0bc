#include "server/server.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "model/files/durable.h"
#include "model/t5/device.h"
#include "model/t5/kernels.h"
#include "server/metrics/metrics.h"
#include "server/store/data_directory.h"
#include "server/store/dataset_table.h"
#include "server/store/store.h"
#include "tasuki/v1/server.grpc.pb.h"
#include "tasuki/v1/training.grpc.pb.h"

namespace tasuki {
namespace {

using testing::HasSubstr;

class ServerTest : public testing::Test {
 protected:
  ServerTest() {
    std::string root = testing::TempDir() + "server.XXXXXX";
    root_ = mkdtemp(root.data());
    options_.data_dir = root_ + "/data";
    options_.listen = "127.0.0.1:0";
    options_.health_listen = "";
    options_.metrics_listen = "";
    options_.device = "cpu";
    options_.serving_threads = options_.training_threads = 1;
    options_.trainer = "/bin/false";
    options_.ready_file = root_ + "/ready";
    options_.drain_seconds = 2;
  }
  ~ServerTest() override { std::filesystem::remove_all(root_); }

  std::string root_;
  Options options_;
};

TEST_F(ServerTest, ServesUntilItStopsAndSaysWhere) {
  options_.metrics_listen = options_.health_listen = "127.0.0.1:0";
  auto server = Server::Start(options_);
  ASSERT_TRUE(server.ok()) << server.status();
  const std::string ready = *ReadFile(options_.ready_file);
  for (const std::string& address :
       {(*server)->listen(), (*server)->metrics_listen(), (*server)->health_listen()}) {
    EXPECT_THAT(ready, HasSubstr("\"" + address + "\""));
    EXPECT_THAT(address, testing::Not(HasSubstr(":0")));
  }
  const auto channel = grpc::CreateChannel((*server)->listen(), grpc::InsecureChannelCredentials());
  grpc::ClientContext c1, c2;
  v1::ServerInfo info;
  ASSERT_TRUE(v1::ServerService::NewStub(channel)->GetServerInfo(&c1, {}, &info).ok());
  EXPECT_EQ(info.store(), "sqlite");
  EXPECT_THAT(info.libtorch_version(), HasSubstr("2."));
  (*server)->Stop();
  EXPECT_EQ(v1::ServerService::NewStub(channel)->GetServerInfo(&c2, {}, &info).error_code(),
            grpc::StatusCode::UNAVAILABLE);
  EXPECT_FALSE(std::filesystem::exists(options_.ready_file));
}

TEST_F(ServerTest, ComputesWithWhatIsMeasuredUnlessItIsTold) {
  const auto info_of = [](const Options& options) {
    const auto server = Server::Start(options);
    EXPECT_TRUE(server.ok()) << server.status();
    v1::ServerInfo info;
    if (!server.ok()) return info;
    grpc::ClientContext context;
    const auto channel =
        grpc::CreateChannel((*server)->listen(), grpc::InsecureChannelCredentials());
    EXPECT_TRUE(v1::ServerService::NewStub(channel)->GetServerInfo(&context, {}, &info).ok());
    return info;
  };
  options_.serving_threads = options_.training_threads = 0;
  v1::ServerInfo info = info_of(options_);
  EXPECT_NE(KernelsNamed(info.serving_kernels()), nullptr);
  EXPECT_EQ(info.training_kernels(), info.serving_kernels()) << "both are of fp32";
  EXPECT_GE(info.serving_threads(), 1);
  EXPECT_GE(info.training_threads(), 1);

  options_.kernels = "portable";
  options_.serving_threads = 3;
  info = info_of(options_);
  EXPECT_EQ(info.serving_kernels(), "portable");
  EXPECT_EQ(info.training_kernels(), "portable");
  EXPECT_EQ(info.serving_threads(), 3);
  EXPECT_STREQ(BestKernels().name, "portable");

  options_.serving_precision = "int8";
  const auto refused = Server::Start(options_);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused.status())) << "ends with kExitBadSetup";
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("portable"));
}

TEST_F(ServerTest, DoesNotStartOnAGpuThatIsNotThere) {
  if (OpenDevice("cuda:99").ok()) GTEST_SKIP() << "a hundred GPUs";
  options_.device = "cuda:99";
  const auto refused = Server::Start(options_);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused.status())) << refused.status();
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("cuda:99 cannot be used: "));
}

TEST_F(ServerTest, StopsAtOnceWhenNothingIsUnderWay) {
  options_.metrics_listen = options_.health_listen = "127.0.0.1:0";
  options_.drain_seconds = 30;
  auto server = Server::Start(options_);
  ASSERT_TRUE(server.ok()) << server.status();
  const auto channel = grpc::CreateChannel((*server)->listen(), grpc::InsecureChannelCredentials());
  grpc::ClientContext context;
  v1::ServerInfo info;
  ASSERT_TRUE(v1::ServerService::NewStub(channel)->GetServerInfo(&context, {}, &info).ok());
  const absl::Time start = absl::Now();  // the client stays connected and does nothing
  (*server)->Stop();
  server->reset();
  EXPECT_LT(absl::Now() - start, absl::Seconds(2));
}

TEST_F(ServerTest, AnEstimateUnderWayDoesNotHoldUpTheStop) {
  options_.trainer = TASUKI_BINARY_DIR "/fake_trainer";
  options_.drain_seconds = 30;
  {
    Metrics metrics;
    v1::Dataset dataset;
    dataset.set_name("datasets/d-texts");
    dataset.set_row_count(10);
    ASSERT_TRUE(MakeDirectories(options_.data_dir).ok());
    const auto store = Store::Open(DataDirectory(options_.data_dir).database(), metrics);
    ASSERT_TRUE(store.ok() && (*store)->datasets().Insert(dataset).ok());
  }
  auto server = Server::Start(options_);
  ASSERT_TRUE(server.ok()) << server.status();
  const auto channel = grpc::CreateChannel((*server)->listen(), grpc::InsecureChannelCredentials());
  const auto stub = v1::TrainingService::NewStub(channel);
  v1::EstimateTrainingJobRequest request;
  request.mutable_training_job()->set_display_name("wait");  // the trainer's script
  request.mutable_training_job()->set_model("models/m");
  request.mutable_training_job()->mutable_pretraining()->add_datasets("datasets/d-texts");
  const DataDirectory data(options_.data_dir);
  const auto estimate = [&](grpc::ClientContext& context) {
    v1::EstimateTrainingJobResponse response;
    return stub->EstimateTrainingJob(&context, request, &response);
  };
  const auto await_trainer = [&] {
    while (!std::filesystem::exists(DataDirectory::log_in(data.estimate()))) {
      absl::SleepFor(absl::Milliseconds(5));
    }
  };

  grpc::ClientContext left;
  std::thread leaving([&] { EXPECT_EQ(estimate(left).error_code(), grpc::StatusCode::CANCELLED); });
  await_trainer();
  left.TryCancel();
  leaving.join();
  while (std::filesystem::exists(data.estimate())) absl::SleepFor(absl::Milliseconds(5));

  grpc::Status status;
  std::thread waiting([&] {
    do {
      grpc::ClientContext context;
      status = estimate(context);
    } while (status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);  // not quite over yet
  });
  await_trainer();
  const absl::Time start = absl::Now();
  (*server)->Stop();
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  waiting.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
}

TEST_F(ServerTest, ASecondServerOnTheSameDataIsRefusedAndLeavesTheReadyFileOfTheFirst) {
  auto first = Server::Start(options_);
  ASSERT_TRUE(first.ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Server::Start(options_).status()));
  EXPECT_TRUE(std::filesystem::exists(options_.ready_file));
  Options other = options_;
  other.ready_file = root_ + "/other";
  const auto second = Server::Start(other);
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status()));
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr("held by another tasukid (process "));
  first->reset();
  EXPECT_TRUE(Server::Start(other).ok()) << "the lock goes with the server";
}

TEST_F(ServerTest, AnAddressInUseIsNamedAndNothingIsLeftRunning) {
  auto first = Server::Start(options_);
  ASSERT_TRUE(first.ok());
  Options other = options_;
  other.data_dir = root_ + "/other";
  other.listen = (*first)->listen();
  const auto second = Server::Start(other);
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status()));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(other.listen));
  other.listen = "127.0.0.1:0";
  other.metrics_listen = (*first)->listen();
  EXPECT_TRUE(absl::IsFailedPrecondition(Server::Start(other).status()));
}

TEST_F(ServerTest, WhatAnEarlierServerWasMakingIsGone) {
  ASSERT_TRUE(MakeDirectories(options_.data_dir + "/aside/import-x").ok());
  auto server = Server::Start(options_);
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_THAT(*ListDirectory(options_.data_dir + "/aside"), testing::IsEmpty());
}

}  // namespace
}  // namespace tasuki
