// Every Prometheus series of the server, with name, help text and unit. The only place that names one.
//
// Children are made once and referred to afterwards; nothing is looked up on the path of a request.
// Thread-safe.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace tasuki {

// Series of one gRPC method.
struct MethodMetrics {
  prometheus::Counter& started;
  prometheus::Gauge& in_flight;
  prometheus::Histogram& handling_seconds;
  // By canonical code, index 0 (OK) to 16 (UNAUTHENTICATED).
  std::array<prometheus::Counter*, 17> handled;
};

// Series of one loaded model version; removed with the object.
class ModelMetrics;
// Gauges of one running job; removed with the object.
class JobMetrics;

class Metrics {
 public:
  Metrics();
  ~Metrics();

  // Serves /metrics at `address` ("127.0.0.1:9500", port 0 picks one). Answers the address in use.
  // UNAVAILABLE if it cannot be bound.
  absl::StatusOr<std::string> Listen(const std::string& address);

  // The rest of this class is one method or member a series; see metrics.cc for names and help texts.
  prometheus::Registry& registry() { return *registry_; }

  // Store.
  void ObserveStoreOperation(const char* operation, absl::Duration duration, bool ok);

 private:
  std::shared_ptr<prometheus::Registry> registry_;
  struct Series;
  std::unique_ptr<Series> series_;
};

}  // namespace tasuki
