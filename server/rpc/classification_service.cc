#include "server/rpc/classification_service.h"

#include <atomic>
#include <memory>

#include "server/rpc/status.h"

namespace tasuki {
namespace {

class ClassifyReactor : public grpc::ServerUnaryReactor {
 public:
  std::shared_ptr<const std::atomic<bool>> cancelled() const { return cancelled_; }
  void OnCancel() override { cancelled_->store(true); }
  void OnDone() override { delete this; }

 private:
  const std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
};

}  // namespace

ClassificationService::ClassificationService(ClassificationPath& path) : path_(path) {}

grpc::ServerUnaryReactor* ClassificationService::Classify(grpc::CallbackServerContext* context,
                                                          const v1::ClassifyRequest* request,
                                                          v1::ClassifyResponse* response) {
  auto* reactor = new ClassifyReactor;
  path_.Run({request, response, absl::FromChrono(context->deadline()), context->peer(),
             reactor->cancelled(),
             // The last use of the reactor: it may be gone when Finish returns.
             [reactor](const absl::Status& status) { reactor->Finish(ToGrpcStatus(status)); }});
  return reactor;
}

}  // namespace tasuki
