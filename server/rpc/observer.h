// Sees every call: counts it, times it, and logs it if it failed. No handler mentions either.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/support/server_interceptor.h"
#include "server/metrics/metrics.h"

namespace tasuki {

// The calls that are under way. Thread-safe.
class CallsUnderWay {
 public:
  void Begin();
  void End();  // the last byte of the answer is on its way
  // Waits until there is none, at most until `deadline`.
  void AwaitNone(absl::Time deadline);

 private:
  absl::Mutex mutex_;
  int count_ ABSL_GUARDED_BY(mutex_) = 0;
};

// Which lines go to the log when there are many. Thread-safe.
class LineLimit {
 public:
  // How many lines before this one were left out; nothing if this one is to be, too.
  std::optional<int64_t> Take();

 private:
  absl::Mutex mutex_;
  absl::Time second_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // its beginning
  int lines_ ABSL_GUARDED_BY(mutex_) = 0;                             // logged in it
  int64_t left_out_ ABSL_GUARDED_BY(mutex_) = 0;
};

// Given to a grpc::ServerBuilder, which owns it; `metrics` and `calls` must outlive the server.
// Thread-safe.
class CallObserver : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  // Makes the series of every method of tasuki.v1 and inference, so that they are there before the
  // first call.
  CallObserver(Metrics& metrics, CallsUnderWay& calls);
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override;

 private:
  CallsUnderWay& calls_;
  LineLimit failures_of_callers_;
  absl::flat_hash_map<std::string, MethodMetrics> methods_;  // by "/package.Service/Method"
};

}  // namespace tasuki
