#include "server/rpc/classification_service.h"

#include <atomic>
#include <memory>

#include "absl/strings/str_cat.h"
#include "google/rpc/status.pb.h"
#include "model/errors/errors.h"
#include "server/rpc/access.h"
#include "server/rpc/status.h"
#include "server/rpc/wire.h"

namespace tasuki {
namespace {

constexpr size_t kMaxIdBytes = 256;

// A call, with its messages.
class ClassifyReactor : public grpc::ServerUnaryReactor {
 public:
  void Run(ClassificationPath& path, const grpc::CallbackServerContext& context,
           const grpc::ByteBuffer& request, grpc::ByteBuffer& response) {
    if (absl::Status status = Parse(request, request_); !status.ok()) {
      Finish(ToGrpcStatus(status));
      return;
    }
    path.Run({&request_, &response_, absl::FromChrono(context.deadline()), CallerOf(context),
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

google::rpc::Status ToProto(const absl::Status& status) {
  google::rpc::Status error;
  const grpc::Status sent = ToGrpcStatus(status);
  if (!error.ParseFromString(sent.error_details())) error.Clear();
  error.set_code(sent.error_code());
  error.set_message(sent.error_message());
  return error;
}

absl::Status CheckId(const std::string& id) {
  if (id.size() <= kMaxIdBytes) return absl::OkStatus();
  Faults faults;
  faults.Add("id",
             absl::StrCat("has ", id.size(), " bytes; at most ", kMaxIdBytes, " are allowed"));
  return faults.ToStatus();
}

// A request of StreamClassify.
class ClassifyExchange : public OrderedStreams::Exchange {
 public:
  explicit ClassifyExchange(ClassificationPath& path) : path_(path) {}
  absl::Status Read(const grpc::ByteBuffer& bytes) override {
    const absl::Status status = Parse(bytes, request_);
    return status.ok() ? CheckId(request_.id()) : status;
  }
  size_t request_bytes() const override { return request_.ByteSizeLong(); }
  int texts() const override { return request_.request().texts_size(); }
  void Ask(ClassificationPath::Call call) override {
    response_.Clear();
    call.request = &request_.request();
    call.response = response_.mutable_response();
    call.usual_priority = Priority::kBulk;
    path_.Run(std::move(call));
  }
  grpc::ByteBuffer Answer(const absl::Status& status) override {
    response_.set_id(request_.id());
    if (!status.ok()) *response_.mutable_error() = ToProto(status);
    const grpc::ByteBuffer bytes = Serialize(response_);
    // Clear would keep the memory.
    v1::StreamClassifyRequest().Swap(&request_);
    v1::StreamClassifyResponse().Swap(&response_);
    return bytes;
  }

 private:
  ClassificationPath& path_;
  v1::StreamClassifyRequest request_;
  v1::StreamClassifyResponse response_;
};

}  // namespace

ClassificationService::ClassificationService(ClassificationPath& path)
    : path_(path), streams_([&path] { return std::make_unique<ClassifyExchange>(path); }) {}

grpc::ServerUnaryReactor* ClassificationService::Classify(grpc::CallbackServerContext* context,
                                                          const grpc::ByteBuffer* request,
                                                          grpc::ByteBuffer* response) {
  auto* reactor = new ClassifyReactor;
  reactor->Run(path_, *context, *request, *response);
  return reactor;
}

}  // namespace tasuki
