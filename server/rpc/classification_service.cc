#include "server/rpc/classification_service.h"

#include <atomic>
#include <memory>

#include "server/rpc/status.h"
#include "server/rpc/wire.h"

namespace tasuki {
namespace {

// A call, with its messages.
class ClassifyReactor : public grpc::ServerUnaryReactor {
 public:
  void Run(ClassificationPath& path, const grpc::CallbackServerContext& context,
           const grpc::ByteBuffer& request, grpc::ByteBuffer& response) {
    if (absl::Status status = Parse(request, request_); !status.ok()) {
      Finish(ToGrpcStatus(status));
      return;
    }
    path.Run({&request_, &response_, absl::FromChrono(context.deadline()), context.peer(),
              cancelled_, [this, &response](const absl::Status& status) {
                if (status.ok()) response = Serialize(response_);
                Finish(ToGrpcStatus(status));  // the last use of this: it may be gone
              }});
  }
  void OnCancel() override { cancelled_->store(true); }
  void OnDone() override { delete this; }

 private:
  const std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
  v1::ClassifyRequest request_;
  v1::ClassifyResponse response_;
};

}  // namespace

ClassificationService::ClassificationService(ClassificationPath& path)
    : path_(path), streams_(path) {}

grpc::ServerUnaryReactor* ClassificationService::Classify(grpc::CallbackServerContext* context,
                                                          const grpc::ByteBuffer* request,
                                                          grpc::ByteBuffer* response) {
  auto* reactor = new ClassifyReactor;
  reactor->Run(path_, *context, *request, *response);
  return reactor;
}

}  // namespace tasuki
