// tasuki.v1.ClassificationService: the fast path's door.
#pragma once

#include "server/rpc/work_thread.h"
#include "server/serving/model_registry.h"
#include "tasuki/v1/classification.grpc.pb.h"

namespace tasuki {

// Classify is a callback method whose reactions never block. Thread-safe.
class ClassificationService final : public v1::ClassificationService::WithCallbackMethod_Classify<
                                        v1::ClassificationService::Service> {
 public:
  explicit ClassificationService(ModelRegistry& registry);
  grpc::ServerUnaryReactor* Classify(grpc::CallbackServerContext* context,
                                     const v1::ClassifyRequest* request,
                                     v1::ClassifyResponse* response) override;

 private:
  ModelRegistry& registry_;
  // Tokenises the requests that are too large for a reaction: gRPC has few threads for those.
  WorkThread large_requests_;
};

}  // namespace tasuki
