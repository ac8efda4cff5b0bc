// A Tasuki server without a product behind it, for the tests of the client: a real gRPC server on
// loopback whose methods answer what a test scripted. Every method counts its calls.
#pragma once

#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "tasuki/v1/classification.grpc.pb.h"
#include "tasuki/v1/datasets.grpc.pb.h"
#include "tasuki/v1/models.grpc.pb.h"
#include "tasuki/v1/server.grpc.pb.h"
#include "tasuki/v1/training.grpc.pb.h"

namespace tasuki {

// An error as the real server sends it: with details in google.rpc.Status.
inline grpc::Status ServerError(grpc::StatusCode code, const std::string& message,
                                const std::string& reason,
                                const google::rpc::BadRequest& faults = {},
                                int retry_after_seconds = -1) {
  google::rpc::Status status;
  status.set_code(code);
  status.set_message(message);
  google::rpc::ErrorInfo info;
  info.set_reason(reason);
  info.set_domain("tasuki");
  status.add_details()->PackFrom(info);
  if (faults.field_violations_size() > 0) status.add_details()->PackFrom(faults);
  if (retry_after_seconds >= 0) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(retry_after_seconds);
    status.add_details()->PackFrom(retry);
  }
  return {code, message, status.SerializeAsString()};
}

class FakeServer {
 public:
  // What an upload or import brought.
  struct Received {
    v1::UploadDatasetHeader dataset;
    v1::ImportModelVersionHeader model;
    std::string bytes;
    size_t largest_chunk = 0;
  };

  // Scripts: called with the number of the call of that method, 1 for the first.
  template <typename Request, typename Answer>
  using Script = std::function<grpc::Status(int call, const Request&, Answer*)>;

  Script<v1::ClassifyRequest, v1::ClassifyResponse> classify;
  Script<v1::GetDatasetRequest, v1::Dataset> get_dataset;
  Script<v1::ListDatasetsRequest, v1::ListDatasetsResponse> list_datasets;
  Script<v1::DeleteDatasetRequest, google::protobuf::Empty> delete_dataset;
  Script<Received, v1::Dataset> upload_dataset;
  Script<Received, v1::CheckDatasetResponse> check_dataset;
  Script<v1::InspectDatasetRequest, v1::InspectDatasetResponse> inspect_dataset;
  Script<v1::EstimateTrainingJobRequest, v1::EstimateTrainingJobResponse> estimate_job;
  Script<v1::CreateTrainingJobRequest, v1::TrainingJob> create_job;
  Script<v1::GetTrainingJobRequest, v1::TrainingJob> get_job;
  Script<v1::PauseTrainingJobRequest, v1::TrainingJob> pause_job;
  std::function<grpc::Status(int call, const v1::WatchTrainingJobRequest&, grpc::ServerContext&,
                             grpc::ServerWriter<v1::WatchTrainingJobResponse>&)>
      watch_job;
  std::function<grpc::Status(int call, const v1::DownloadPredictionsRequest&,
                             grpc::ServerWriter<v1::DownloadPredictionsResponse>&)>
      download_predictions;
  Script<Received, v1::ModelVersion> import_model;
  Script<v1::GetModelVersionRequest, v1::ModelVersion> get_version;
  Script<v1::GetModelAliasRequest, v1::ModelAlias> get_alias;
  std::function<grpc::Status(int call, grpc::ServerWriter<v1::ExportModelVersionResponse>&)>
      export_model;

  // If set, told which stream of StreamClassify and which message of it came; an error ends it.
  std::function<grpc::Status(int call, int message)> stream_classify;

  // Listens at `address`; port 0 picks a free one.
  explicit FakeServer(const std::string& address = "127.0.0.1:0") : services_(*this) {
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&services_.classification);
    builder.RegisterService(&services_.datasets);
    builder.RegisterService(&services_.models);
    builder.RegisterService(&services_.training);
    server_ = builder.BuildAndStart();
    address_ = "127.0.0.1:" + std::to_string(port);
  }
  ~FakeServer() { server_->Shutdown(std::chrono::system_clock::now()); }

  const std::string& address() const { return address_; }

 private:
  template <typename Call, typename... Arguments>
  static grpc::Status Play(const Call& script, std::atomic<int>& calls, Arguments&&... arguments) {
    if (!script) return {grpc::StatusCode::UNIMPLEMENTED, "no script"};
    return script(++calls, std::forward<Arguments>(arguments)...);
  }

  template <typename Reader, typename Request, typename Header>
  static Received Receive(Reader& reader, Request request, Header header) {
    Received received;
    while (reader.Read(&request)) {
      if (request.has_header()) header(received, request.header());
      received.bytes += request.chunk();
      received.largest_chunk = std::max(received.largest_chunk, request.chunk().size());
    }
    return received;
  }

  struct Classification : v1::ClassificationService::Service {
    explicit Classification(FakeServer& fake) : fake(fake) {}
    grpc::Status Classify(grpc::ServerContext*, const v1::ClassifyRequest* request,
                          v1::ClassifyResponse* answer) override {
      return Play(fake.classify, calls, *request, answer);
    }
    // Each message is answered as Classify would.
    grpc::Status StreamClassify(
        grpc::ServerContext*,
        grpc::ServerReaderWriter<v1::StreamClassifyResponse, v1::StreamClassifyRequest>* stream)
        override {
      const int call = ++streams;
      v1::StreamClassifyRequest request;
      for (int message = 1; stream->Read(&request); ++message) {
        if (fake.stream_classify) {
          grpc::Status status = fake.stream_classify(call, message);
          if (!status.ok()) return status;
        }
        v1::StreamClassifyResponse answer;
        answer.set_id(request.id());
        const grpc::Status status =
            Play(fake.classify, calls, request.request(), answer.mutable_response());
        if (!status.ok() && !answer.mutable_error()->ParseFromString(status.error_details())) {
          answer.mutable_error()->set_code(status.error_code());
        }
        if (!stream->Write(answer)) break;
      }
      return grpc::Status::OK;
    }
    FakeServer& fake;
    std::atomic<int> calls{0}, streams{0};
  };

  struct Datasets : v1::DatasetService::Service {
    explicit Datasets(FakeServer& fake) : fake(fake) {}
    grpc::Status UploadDataset(grpc::ServerContext*,
                               grpc::ServerReader<v1::UploadDatasetRequest>* reader,
                               v1::Dataset* answer) override {
      const Received received = Receive(*reader, v1::UploadDatasetRequest(),
                                        [](Received& r, const auto& h) { r.dataset = h; });
      return Play(fake.upload_dataset, uploads, received, answer);
    }
    grpc::Status CheckDataset(grpc::ServerContext*,
                              grpc::ServerReader<v1::CheckDatasetRequest>* reader,
                              v1::CheckDatasetResponse* answer) override {
      const Received received = Receive(*reader, v1::CheckDatasetRequest(),
                                        [](Received& r, const auto& h) { r.dataset = h; });
      return Play(fake.check_dataset, checks, received, answer);
    }
    grpc::Status InspectDataset(grpc::ServerContext*, const v1::InspectDatasetRequest* request,
                                v1::InspectDatasetResponse* answer) override {
      return Play(fake.inspect_dataset, inspections, *request, answer);
    }
    grpc::Status GetDataset(grpc::ServerContext*, const v1::GetDatasetRequest* request,
                            v1::Dataset* answer) override {
      return Play(fake.get_dataset, gets, *request, answer);
    }
    grpc::Status ListDatasets(grpc::ServerContext*, const v1::ListDatasetsRequest* request,
                              v1::ListDatasetsResponse* answer) override {
      return Play(fake.list_datasets, lists, *request, answer);
    }
    grpc::Status DeleteDataset(grpc::ServerContext*, const v1::DeleteDatasetRequest* request,
                               google::protobuf::Empty* answer) override {
      return Play(fake.delete_dataset, deletes, *request, answer);
    }
    FakeServer& fake;
    std::atomic<int> uploads{0}, checks{0}, inspections{0}, gets{0}, lists{0}, deletes{0};
  };

  struct Models : v1::ModelService::Service {
    explicit Models(FakeServer& fake) : fake(fake) {}
    grpc::Status ImportModelVersion(grpc::ServerContext*,
                                    grpc::ServerReader<v1::ImportModelVersionRequest>* reader,
                                    v1::ModelVersion* answer) override {
      const Received received = Receive(*reader, v1::ImportModelVersionRequest(),
                                        [](Received& r, const auto& h) { r.model = h; });
      return Play(fake.import_model, imports, received, answer);
    }
    grpc::Status ExportModelVersion(
        grpc::ServerContext*, const v1::ExportModelVersionRequest*,
        grpc::ServerWriter<v1::ExportModelVersionResponse>* writer) override {
      return Play(fake.export_model, exports, *writer);
    }
    grpc::Status GetModelVersion(grpc::ServerContext*, const v1::GetModelVersionRequest* request,
                                 v1::ModelVersion* answer) override {
      return Play(fake.get_version, gets, *request, answer);
    }
    grpc::Status GetModelAlias(grpc::ServerContext*, const v1::GetModelAliasRequest* request,
                               v1::ModelAlias* answer) override {
      return Play(fake.get_alias, aliases, *request, answer);
    }
    FakeServer& fake;
    std::atomic<int> imports{0}, exports{0}, gets{0}, aliases{0};
  };

  struct Training : v1::TrainingService::Service {
    explicit Training(FakeServer& fake) : fake(fake) {}
    grpc::Status CreateTrainingJob(grpc::ServerContext*,
                                   const v1::CreateTrainingJobRequest* request,
                                   v1::TrainingJob* answer) override {
      return Play(fake.create_job, creates, *request, answer);
    }
    grpc::Status GetTrainingJob(grpc::ServerContext*, const v1::GetTrainingJobRequest* request,
                                v1::TrainingJob* answer) override {
      return Play(fake.get_job, gets, *request, answer);
    }
    grpc::Status PauseTrainingJob(grpc::ServerContext*, const v1::PauseTrainingJobRequest* request,
                                  v1::TrainingJob* answer) override {
      return Play(fake.pause_job, pauses, *request, answer);
    }
    grpc::Status EstimateTrainingJob(grpc::ServerContext*,
                                     const v1::EstimateTrainingJobRequest* request,
                                     v1::EstimateTrainingJobResponse* answer) override {
      return Play(fake.estimate_job, estimates, *request, answer);
    }
    grpc::Status WatchTrainingJob(
        grpc::ServerContext* context, const v1::WatchTrainingJobRequest* request,
        grpc::ServerWriter<v1::WatchTrainingJobResponse>* writer) override {
      return Play(fake.watch_job, watches, *request, *context, *writer);
    }
    grpc::Status DownloadPredictions(
        grpc::ServerContext*, const v1::DownloadPredictionsRequest* request,
        grpc::ServerWriter<v1::DownloadPredictionsResponse>* writer) override {
      return Play(fake.download_predictions, downloads, *request, *writer);
    }
    FakeServer& fake;
    std::atomic<int> creates{0}, gets{0}, pauses{0}, watches{0}, estimates{0}, downloads{0};
  };

  struct Services {
    explicit Services(FakeServer& fake)
        : classification(fake), datasets(fake), models(fake), training(fake) {}
    Classification classification;
    Datasets datasets;
    Models models;
    Training training;
  };

  Services services_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

// Event `sequence` of a job, a message.
inline v1::WatchTrainingJobResponse MessageEvent(int64_t sequence) {
  v1::WatchTrainingJobResponse response;
  response.mutable_event()->set_sequence(sequence);
  response.mutable_event()->mutable_message()->set_text("event " + std::to_string(sequence));
  return response;
}

// A directory that is removed at the end.
class ScratchDirectory {
 public:
  ScratchDirectory() {
    std::string name = std::filesystem::temp_directory_path() / "tasuki-client-XXXXXX";
    path_ = mkdtemp(name.data());
  }
  ~ScratchDirectory() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace tasuki
