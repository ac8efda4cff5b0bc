// A whole server in this process: real rooms over a temporary data directory, and channels to it.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "model/files/durable.h"
#include "model/files/model_directory.h"
#include "server/datasets/datasets.h"
#include "server/jobs/jobs.h"
#include "server/metrics/metrics.h"
#include "server/rpc/classification_path.h"
#include "server/rpc/classification_service.h"
#include "server/rpc/datasets_service.h"
#include "server/rpc/endpoint.h"
#include "server/rpc/inference_service.h"
#include "server/rpc/models_service.h"
#include "server/rpc/server_service.h"
#include "server/rpc/training_service.h"
#include "server/rpc/watch_hub.h"
#include "server/serving/model_registry.h"
#include "server/store/store.h"

namespace tasuki {

class ServerFixture : public testing::Test {
 protected:
  explicit ServerFixture(int max_queue_tokens = ServingOptions().max_queue_tokens) {
    std::string root = testing::TempDir() + "rpc.XXXXXX";
    data_ = std::make_unique<DataDirectory>(mkdtemp(root.data()));
    EXPECT_TRUE(MakeDirectories(data_->aside()).ok());
    store_ = *Store::Open(data_->database(), metrics_);
    datasets_ = std::make_unique<Datasets>(*store_, *data_);
    ServingOptions serving;
    serving.threads = 1;
    serving.max_queue_tokens = max_queue_tokens;
    serving.trainer_path = "/bin/false";
    registry_ = std::make_unique<ModelRegistry>(*store_, *data_, serving, metrics_);
    EXPECT_TRUE(registry_->Start().ok());
    // Not started: jobs stay QUEUED, and the tests write their events.
    jobs_ = std::make_unique<Jobs>(*store_, *data_, JobsOptions(), metrics_, nullptr, nullptr);
    watchers_ = std::make_unique<WatchHub>(store_->jobs());
    datasets_service_ = std::make_unique<DatasetsService>(*datasets_, store_->datasets());
    training_service_ = std::make_unique<TrainingService>(*jobs_, store_->jobs(), *watchers_);
    models_service_ =
        std::make_unique<ModelsService>(*registry_, store_->models(), store_->aliases(), *data_);
    classification_path_ = std::make_unique<ClassificationPath>(*registry_);
    classification_service_ = std::make_unique<ClassificationService>(*classification_path_);
    inference_service_ =
        std::make_unique<InferenceService>(*classification_path_, *registry_, store_->models());
    v1::ServerInfo info;
    info.set_version("1.2.3");
    server_service_ = std::make_unique<ServerService>(info, *registry_);
    endpoint_ = *Endpoint::Listen(
        {"127.0.0.1:0",
         16,
         {datasets_service_.get(), training_service_.get(), models_service_.get(),
          classification_service_.get(), inference_service_.get(), server_service_.get()}},
        metrics_);
    endpoint_->SetServing(true);
    channel_ = grpc::CreateChannel(endpoint_->address(), grpc::InsecureChannelCredentials());
  }
  ~ServerFixture() override {
    Shutdown();
    watchers_.reset();
    jobs_.reset();
    registry_.reset();
    store_.reset();
    std::filesystem::remove_all(data_->root());
  }

  // As server.cc does it.
  void Shutdown() {
    watchers_->Drain();
    classification_service_->Drain();
    inference_service_->Drain();
    registry_->Drain();
    endpoint_->Shutdown(absl::Now() + absl::Seconds(5));
  }

  static std::string ReasonIn(const grpc::Status& status) {
    google::rpc::Status details;
    google::rpc::ErrorInfo info;
    if (!details.ParseFromString(status.error_details())) return "";
    for (const auto& any : details.details()) {
      if (any.UnpackTo(&info)) return info.reason();
    }
    return "";
  }

  grpc::Status Classify(const v1::ClassifyRequest& request, v1::ClassifyResponse* response) {
    grpc::ClientContext context;
    return v1::ClassificationService::NewStub(channel_)->Classify(&context, request, response);
  }

  // Sends a header (none if `format` is null) and then the bytes in the pieces given.
  grpc::Status Upload(const v1::UploadDatasetHeader* header, const std::vector<std::string>& pieces,
                      v1::Dataset* dataset) {
    grpc::ClientContext context;
    auto stub = v1::DatasetService::NewStub(channel_);
    auto writer = stub->UploadDataset(&context, dataset);
    v1::UploadDatasetRequest message;
    if (header != nullptr) {
      *message.mutable_header() = *header;
      writer->Write(message);
    }
    for (const std::string& piece : pieces) {
      message.set_chunk(piece);
      if (!writer->Write(message)) break;
    }
    writer->WritesDone();
    return writer->Finish();
  }
  static v1::UploadDatasetHeader Tsv() {
    v1::UploadDatasetHeader header;
    header.mutable_format()->set_kind(v1::DatasetFormat::TSV);
    return header;
  }

  Metrics metrics_;
  std::unique_ptr<DataDirectory> data_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Datasets> datasets_;
  std::unique_ptr<ModelRegistry> registry_;
  std::unique_ptr<Jobs> jobs_;
  std::unique_ptr<WatchHub> watchers_;
  std::unique_ptr<DatasetsService> datasets_service_;
  std::unique_ptr<TrainingService> training_service_;
  std::unique_ptr<ModelsService> models_service_;
  std::unique_ptr<ClassificationPath> classification_path_;
  std::unique_ptr<ClassificationService> classification_service_;
  std::unique_ptr<InferenceService> inference_service_;
  std::unique_ptr<ServerService> server_service_;
  std::unique_ptr<Endpoint> endpoint_;
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace tasuki
