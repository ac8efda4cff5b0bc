// Sees every call: counts it, times it, and logs it if it failed. No handler mentions either.
#pragma once

#include <string>

#include "absl/container/flat_hash_map.h"
#include "grpcpp/support/server_interceptor.h"
#include "server/metrics/metrics.h"

namespace tasuki {

// Given to a grpc::ServerBuilder, which owns it; `metrics` must outlive the server. Thread-safe.
class CallObserver : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  // Makes the series of every method of tasuki.v1, so that they are there before the first call.
  explicit CallObserver(Metrics& metrics);
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override;

 private:
  absl::flat_hash_map<std::string, MethodMetrics> methods_;  // by "/tasuki.v1.Service/Method"
};

}  // namespace tasuki
