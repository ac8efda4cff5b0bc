#include "server/rpc/endpoint.h"

#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "google/protobuf/message.h"
#include "grpc/grpc.h"
#include "grpc/health/v1/health.pb.h"
#include "grpc/support/log.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/generic/async_generic_service.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/resource_quota.h"
#include "server/rpc/observer.h"
#include "spdlog/spdlog.h"

namespace tasuki {
namespace {

constexpr int kMaxMessageBytes = 64 << 20;
// How long clients have to hear that the server stops, once no call is left.
constexpr absl::Duration kGoodbye = absl::Milliseconds(100);
// A connection keeps the certificates that it began with: after this time new calls go to a new
// one. Those under way stay on the old one until they end.
constexpr absl::Duration kMaxTlsAge = absl::Minutes(30);

int ToMilliseconds(absl::Duration duration) {
  return static_cast<int>(absl::ToInt64Milliseconds(duration));
}

// Once a process. gRPC's own lines are for who looks for them: what matters comes as a status.
void SetUpGrpc() {
  static const bool done = [] {
    gpr_set_log_function([](gpr_log_func_args* args) { spdlog::debug("grpc: {}", args->message); });
    grpc::EnableDefaultHealthCheckService(true);
    // gRPC's own health service brings no descriptor: without one, reflection lists it and cannot
    // show it.
    google::protobuf::LinkMessageReflection<grpc::health::v1::HealthCheckRequest>();
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    return true;
  }();
  static_cast<void>(done);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Endpoint>> Endpoint::Listen(const Options& options,
                                                           Metrics& metrics) {
  SetUpGrpc();
  std::unique_ptr<Endpoint> endpoint(new Endpoint(metrics));
  grpc::ServerBuilder builder;
  int port = 0;
  Access* const access = options.access;
  builder.AddListeningPort(
      options.address,
      access != nullptr ? access->Credentials() : grpc::InsecureServerCredentials(), &port);
  if (access != nullptr && access->tls()) {
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, ToMilliseconds(kMaxTlsAge));
  }
  // Two servers on one port would share its callers.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 1000);
  // A peer that vanished without a word is noticed after these, also between its calls; clients may
  // ping every 10 s.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, ToMilliseconds(options.ping_after));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, ToMilliseconds(options.pong_within));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  // A few bytes may decompress to as many as a message may have, and all calls are under one limit
  // of threads, not of memory.
  for (const auto algorithm : {GRPC_COMPRESS_DEFLATE, GRPC_COMPRESS_GZIP}) {
    builder.SetCompressionAlgorithmSupportStatus(algorithm, false);
  }
  grpc::ResourceQuota quota("tasukid");
  quota.SetMaxThreads(options.max_threads);
  builder.SetResourceQuota(quota);
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> observers;
  observers.push_back(std::make_unique<CallObserver>(metrics, endpoint->calls_));
  if (access != nullptr) observers.push_back(access->StreamInterceptors());
  builder.experimental().SetInterceptorCreators(std::move(observers));
  for (grpc::Service* service : options.services) {
    if (access != nullptr) {
      endpoint->guarded_.push_back(std::make_unique<GuardedService>(*service, *access));
      service = endpoint->guarded_.back().get();
    }
    builder.RegisterService(service);
  }
  if (options.services.empty()) {
    endpoint->nothing_ = std::make_unique<grpc::CallbackGenericService>();
    builder.RegisterCallbackGenericService(endpoint->nothing_.get());
  }
  endpoint->server_ = builder.BuildAndStart();
  if (endpoint->server_ == nullptr || port == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(options.address,
                     " cannot be listened on: it is in use or not an address of "
                     "this machine; choose another one"));
  }
  endpoint->address_ =
      absl::StrCat(options.address.substr(0, options.address.rfind(':')), ":", port);
  endpoint->SetServing(false);
  return endpoint;
}

Endpoint::~Endpoint() {
  if (server_ != nullptr) Shutdown(absl::Now());
}

void Endpoint::SetModelServing(const std::string& name, bool serving) {
  server_->GetHealthCheckService()->SetServingStatus(name, serving);
}

void Endpoint::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
  if (!serving) health->SetServingStatus(false);
  for (const char* service :
       {"", "tasuki.v1.ClassificationService", "inference.GRPCInferenceService"}) {
    health->SetServingStatus(service, serving);
    metrics_.SetHealth(service, serving);
  }
}

// gRPC's own shutdown says goodbye on every connection and waits until each is closed. A client
// without a call looks at its connection every five seconds, and a health watch stays until the
// deadline: so once no call of ours is left, and those who listen had the time to hear the goodbye,
// the connections are closed from here.
void Endpoint::Shutdown(absl::Time deadline) {
  absl::Notification closed;
  std::thread shutdown([&] {
    server_->Shutdown(absl::ToChronoTime(deadline));
    closed.Notify();
  });
  while (true) {
    calls_.AwaitNone(deadline);
    if (closed.WaitForNotificationWithTimeout(kGoodbye)) break;
    calls_.AwaitNone(deadline);  // one may have come before the goodbye was heard
    grpc_server_cancel_all_calls(server_->c_server());
  }
  shutdown.join();
}

}  // namespace tasuki
