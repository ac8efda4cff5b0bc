// tasuki.v1.ClassificationService: the fast path's door.
#pragma once

#include "server/rpc/classification_path.h"
#include "server/rpc/ordered_streams.h"
#include "tasuki/v1/classification.grpc.pb.h"

namespace tasuki {

// Callback methods whose reactions never block. Thread-safe.
class ClassificationService final
    : public v1::ClassificationService::WithRawCallbackMethod_Classify<
          v1::ClassificationService::WithRawCallbackMethod_StreamClassify<
              v1::ClassificationService::Service>> {
 public:
  explicit ClassificationService(ClassificationPath& path);
  grpc::ServerUnaryReactor* Classify(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StreamClassify(
      grpc::CallbackServerContext* context) override {
    return streams_.Start(*context);
  }
  // Ends streams, once what they have read is answered.
  void Drain() { streams_.Drain(); }

 private:
  ClassificationPath& path_;
  OrderedStreams streams_;
};

}  // namespace tasuki
