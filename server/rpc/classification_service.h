// tasuki.v1.ClassificationService: the fast path's door.
#pragma once

#include "server/rpc/classification_path.h"
#include "tasuki/v1/classification.grpc.pb.h"

namespace tasuki {

// Classify is a callback method whose reactions never block. Thread-safe.
class ClassificationService final : public v1::ClassificationService::WithCallbackMethod_Classify<
                                        v1::ClassificationService::Service> {
 public:
  explicit ClassificationService(ClassificationPath& path);
  grpc::ServerUnaryReactor* Classify(grpc::CallbackServerContext* context,
                                     const v1::ClassifyRequest* request,
                                     v1::ClassifyResponse* response) override;

 private:
  ClassificationPath& path_;
};

}  // namespace tasuki
