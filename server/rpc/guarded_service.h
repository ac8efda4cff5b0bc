// A service whose methods ask Access before they look at a request.
#pragma once

#include "grpcpp/impl/service_type.h"
#include "server/rpc/access.h"

namespace tasuki {

// Registered in the place of `service`, with the same methods, of whatever kind. A call that is
// refused ends with its status before its request is parsed or any part of a stream is read, and
// none of the service's code runs. Both must outlive it. Thread-safe.
class GuardedService final : public grpc::Service {
 public:
  GuardedService(grpc::Service& service, Access& access);
};

}  // namespace tasuki
