#include "server/rpc/guarded_service.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "grpc/byte_buffer.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/impl/codegen/server_callback_handlers.h"
#include "grpcpp/impl/rpc_service_method.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/method_handler.h"
#include "server/rpc/status.h"

namespace tasuki {
namespace {

using grpc::ByteBuffer;
using grpc::internal::MethodHandler;
using grpc::internal::RpcMethod;
using grpc::internal::RpcServiceMethod;
using ApiType = RpcServiceMethod::ApiType;

// gRPC 1.51 offers no hook that sees every call before its handler and can end it with details: an
// AuthMetadataProcessor sends a code and a sentence only, and an interceptor cannot end a call. So
// handlers are put before those of the service, whose list is private. An explicit instantiation
// may name what is private.
using Methods = std::vector<std::unique_ptr<RpcServiceMethod>>;
Methods& MethodsOf(grpc::Service& service);
template <Methods grpc::Service::*kMethods>
struct Reveal {
  friend Methods& MethodsOf(grpc::Service& service) { return service.*kMethods; }
};
template struct Reveal<&grpc::Service::methods_>;

class Refused final : public grpc::ServerBidiReactor<ByteBuffer, ByteBuffer> {
 public:
  explicit Refused(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

// The handler of one method: Check, then the service's own handler.
class Guard final : public MethodHandler {
 public:
  Guard(const RpcServiceMethod& method, Access& access)
      : method_(method.name()),
        roles_(RolesOf(method.name())),
        has_payload_(method.method_type() == RpcMethod::NORMAL_RPC ||
                     method.method_type() == RpcMethod::SERVER_STREAMING),
        callback_(method.api_type() != ApiType::SYNC),
        inner_(*method.handler()),
        access_(access) {}

  // Called first; the bytes go on to RunHandler as they are.
  void* Deserialize(grpc_call*, grpc_byte_buffer* bytes, grpc::Status*, void**) override {
    return bytes;
  }

  void RunHandler(const HandlerParameter& call) override {
    auto* bytes = static_cast<grpc_byte_buffer*>(call.request);
    const absl::Status status =
        Catching([&] { return access_.Check(method_, roles_, *call.server_context); });
    if (!status.ok()) {
      if (bytes != nullptr) grpc_byte_buffer_destroy(bytes);
      Refuse(call, ToGrpcStatus(status));
    } else if (has_payload_) {
      grpc::Status parsed = call.status;
      void* data = nullptr;
      void* request = inner_.Deserialize(call.call->call(), bytes, &parsed, &data);
      inner_.RunHandler(HandlerParameter(call.call, call.server_context, request, parsed, data,
                                         call.call_requester));
    } else {
      inner_.RunHandler(call);
    }
  }

 private:
  // Whatever kind of method it is: a status, and no message before it.
  void Refuse(const HandlerParameter& call, const grpc::Status& status) const {
    if (callback_) {
      grpc::internal::CallbackBidiHandler<ByteBuffer, ByteBuffer>([&](auto*) {
        return new Refused(status);
      }).RunHandler(call);
    } else {
      using Stream = grpc::ServerReaderWriter<ByteBuffer, ByteBuffer>;
      grpc::internal::TemplatedBidiStreamingHandler<Stream, false>([&](auto*, auto*) {
        return status;
      }).RunHandler(call);
    }
  }

  const std::string method_;
  const Roles roles_;
  const bool has_payload_;
  const bool callback_;
  MethodHandler& inner_;
  Access& access_;
};

}  // namespace

GuardedService::GuardedService(grpc::Service& service, Access& access) {
  for (const auto& method : MethodsOf(service)) {
    auto* guarded =
        new RpcServiceMethod(method->name(), method->method_type(), new Guard(*method, access));
    if (method->api_type() != ApiType::SYNC) guarded->SetServerApiType(method->api_type());
    AddMethod(guarded);  // which owns it
  }
}

}  // namespace tasuki
