// inference.GRPCInferenceService: the Open Inference Protocol (docs/inference-protocol.md) on the
// fast path and the model registry.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "inference/inference.grpc.pb.h"
#include "server/rpc/classification_path.h"
#include "server/serving/model_registry.h"
#include "server/store/model_table.h"

namespace tasuki {

// ModelInfer and ModelStreamInfer are callback methods whose reactions never block; the others are
// synchronous. Thread-safe.
class InferenceService final
    : public inference::GRPCInferenceService::WithCallbackMethod_ModelInfer<
          inference::GRPCInferenceService::WithCallbackMethod_ModelStreamInfer<
              inference::GRPCInferenceService::Service>> {
 public:
  // A request on its way.
  struct Call {
    const inference::ModelInferRequest* request = nullptr;  // lives until `done`
    inference::ModelInferResponse* response = nullptr;      // lives until `done`
    absl::Time deadline = absl::InfiniteFuture();
    std::string caller;
    std::shared_ptr<const std::atomic<bool>> cancelled;
    std::function<void(const absl::Status&)> done;  // as ClassificationPath::Call's
  };

  InferenceService(ClassificationPath& path, ModelRegistry& registry, ModelTable& table);
  // Ends every stream once what it has read is answered, new ones too, with UNAVAILABLE (DRAINING);
  // the server is not ready any more.
  void Drain() ABSL_LOCKS_EXCLUDED(mutex_);

  grpc::ServerUnaryReactor* ModelInfer(grpc::CallbackServerContext* context,
                                       const inference::ModelInferRequest* request,
                                       inference::ModelInferResponse* response) override;
  grpc::ServerBidiReactor<inference::ModelInferRequest, inference::ModelStreamInferResponse>*
  ModelStreamInfer(grpc::CallbackServerContext* context) override;

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
  class Stream;
  struct Inference;

  static grpc::Status NotOffered();  // UNIMPLEMENTED
  // Never blocks.
  void Infer(Call call);
  void Classify(const std::shared_ptr<Inference>& inference,
                absl::StatusOr<AcquiredModel> acquired);
  // Waits for a version that has to come into memory.
  absl::StatusOr<std::shared_ptr<const LoadedModel>> Acquire(const std::string& name,
                                                             const std::string& version);
  // Every version of a model, the newest first. NOT_FOUND.
  absl::StatusOr<std::vector<v1::ModelVersion>> VersionsOf(const std::string& model);

  ClassificationPath& path_;
  ModelRegistry& registry_;
  ModelTable& table_;

  absl::Mutex mutex_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<Stream*, std::shared_ptr<Stream>> streams_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tasuki
