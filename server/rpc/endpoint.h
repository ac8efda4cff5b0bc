// A listening gRPC server.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/server.h"
#include "server/metrics/metrics.h"
#include "server/rpc/access.h"
#include "server/rpc/guarded_service.h"
#include "server/rpc/observer.h"

namespace tasuki {

// Serves health (grpc.health.v1) and reflection beside the services it is given. Thread-safe.
class Endpoint {
 public:
  struct Options {
    std::string address;   // HOST:PORT; port 0 picks a free one
    int max_threads = 64;  // of synchronous methods; a call beyond them is RESOURCE_EXHAUSTED
    std::vector<grpc::Service*> services;  // must outlive the endpoint; none: health only
    // A connection on which nothing came for so long is pinged, and closed without an answer.
    absl::Duration ping_after = absl::Minutes(1);
    absl::Duration pong_within = absl::Seconds(20);
    // Who may connect and call; must outlive the endpoint. nullptr: everybody, without TLS.
    Access* access = nullptr;
  };

  // Health says NOT_SERVING until SetServing. FAILED_PRECONDITION if the address cannot be bound.
  static absl::StatusOr<std::unique_ptr<Endpoint>> Listen(const Options& options, Metrics& metrics);
  // Shuts down at once unless that was done.
  ~Endpoint();

  // HOST:PORT with the real port.
  const std::string& address() const { return address_; }
  // What health answers for "" and for the services that classify; false: for every name, from now
  // on.
  void SetServing(bool serving);
  // What health answers for the name of a model, version or alias. A name that never came here is
  // not known to health.
  void SetModelServing(const std::string& name, bool serving);
  // Takes no new calls, waits for those under way, and cancels them at `deadline`. Health checks,
  // reflection and connections without a call are not waited for.
  void Shutdown(absl::Time deadline);

 private:
  explicit Endpoint(Metrics& metrics) : metrics_(metrics) {}
  Metrics& metrics_;
  CallsUnderWay calls_;
  std::vector<std::unique_ptr<GuardedService>> guarded_;
  // Unregistered methods of a server without services: a gRPC server needs something to do.
  std::unique_ptr<grpc::CallbackGenericService> nothing_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

}  // namespace tasuki
