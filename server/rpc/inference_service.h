// inference.GRPCInferenceService: the Open Inference Protocol (docs/inference-protocol.md) on the
// fast path and the model registry.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "inference/inference.grpc.pb.h"
#include "server/rpc/classification_path.h"
#include "server/rpc/ordered_streams.h"
#include "server/serving/model_registry.h"
#include "server/store/model_table.h"

namespace tasuki {

// ModelInfer and ModelStreamInfer are callback methods whose reactions never block; the others are
// synchronous. Thread-safe.
class InferenceService final
    : public inference::GRPCInferenceService::WithRawCallbackMethod_ModelInfer<
          inference::GRPCInferenceService::WithRawCallbackMethod_ModelStreamInfer<
              inference::GRPCInferenceService::Service>> {
 public:
  InferenceService(ClassificationPath& path, ModelRegistry& registry, ModelTable& table);
  // Ends every stream once what it has read is answered, new ones too, with UNAVAILABLE (DRAINING);
  // the server is not ready any more.
  void Drain();

  // Never blocks. `call` has everything but its messages; request and response live until its
  // `done`, and `arrival` is when the request's timeout began.
  void Infer(const inference::ModelInferRequest& request, inference::ModelInferResponse& response,
             absl::Time arrival, ClassificationPath::Call call);

  grpc::ServerUnaryReactor* ModelInfer(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* ModelStreamInfer(
      grpc::CallbackServerContext* context) override {
    return streams_.Start(*context);
  }

  grpc::Status ServerLive(grpc::ServerContext* context, const inference::ServerLiveRequest* request,
                          inference::ServerLiveResponse* response) override;
  grpc::Status ServerReady(grpc::ServerContext* context,
                           const inference::ServerReadyRequest* request,
                           inference::ServerReadyResponse* response) override;
  grpc::Status ModelReady(grpc::ServerContext* context, const inference::ModelReadyRequest* request,
                          inference::ModelReadyResponse* response) override;
  grpc::Status ServerMetadata(grpc::ServerContext* context,
                              const inference::ServerMetadataRequest* request,
                              inference::ServerMetadataResponse* response) override;
  grpc::Status ModelMetadata(grpc::ServerContext* context,
                             const inference::ModelMetadataRequest* request,
                             inference::ModelMetadataResponse* response) override;
  grpc::Status ModelConfig(grpc::ServerContext* context,
                           const inference::ModelConfigRequest* request,
                           inference::ModelConfigResponse* response) override;
  grpc::Status ModelStatistics(grpc::ServerContext* context,
                               const inference::ModelStatisticsRequest* request,
                               inference::ModelStatisticsResponse* response) override;
  grpc::Status RepositoryIndex(grpc::ServerContext* context,
                               const inference::RepositoryIndexRequest* request,
                               inference::RepositoryIndexResponse* response) override;
  grpc::Status RepositoryModelLoad(grpc::ServerContext* context,
                                   const inference::RepositoryModelLoadRequest* request,
                                   inference::RepositoryModelLoadResponse* response) override;
  grpc::Status RepositoryModelUnload(grpc::ServerContext* context,
                                     const inference::RepositoryModelUnloadRequest* request,
                                     inference::RepositoryModelUnloadResponse* response) override;

  using Context = grpc::ServerContext;
  using None = inference::NotOffered;
  grpc::Status SystemSharedMemoryStatus(Context*, const None*, None*) override {
    return NotOffered();
  }
  grpc::Status SystemSharedMemoryRegister(Context*, const None*, None*) override {
    return NotOffered();
  }
  grpc::Status SystemSharedMemoryUnregister(Context*, const None*, None*) override {
    return NotOffered();
  }
  grpc::Status CudaSharedMemoryStatus(Context*, const None*, None*) override {
    return NotOffered();
  }
  grpc::Status CudaSharedMemoryRegister(Context*, const None*, None*) override {
    return NotOffered();
  }
  grpc::Status CudaSharedMemoryUnregister(Context*, const None*, None*) override {
    return NotOffered();
  }
  grpc::Status TraceSetting(Context*, const None*, None*) override { return NotOffered(); }
  grpc::Status LogSettings(Context*, const None*, None*) override { return NotOffered(); }

 private:
  struct Inference;

  static grpc::Status NotOffered();  // UNIMPLEMENTED
  void Classify(const std::shared_ptr<Inference>& inference,
                absl::StatusOr<AcquiredModel> acquired);
  // See ModelRegistry::Look: who asks about versions has none loaded.
  absl::StatusOr<VersionStates::InServiceVersion> Look(const std::string& name,
                                                       const std::string& version);
  // The row of a version that is in service.
  absl::StatusOr<v1::ModelVersion> Describe(const std::string& name, const std::string& version);
  // Every version of a model, the newest first. NOT_FOUND.
  absl::StatusOr<std::vector<v1::ModelVersion>> VersionsOf(const std::string& model);

  ClassificationPath& path_;
  ModelRegistry& registry_;
  ModelTable& table_;
  OrderedStreams streams_;
  std::atomic<bool> draining_ = false;
};

}  // namespace tasuki
