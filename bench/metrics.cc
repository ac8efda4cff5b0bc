// Measures what metrics cost: the updates of one request to classify, as the server makes them.
//
// usage: bench-metrics [--seconds S]
// A thread makes the updates of requests of one text, each in a batch of its own (the dearest way),
// over and over for S seconds (2), beside a second one that does the same, so that both write to
// the same series. Prints a line of JSON: microseconds of a request, the median of twenty rounds.
#include "server/metrics/metrics.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

namespace tasuki {
namespace {

using Clock = std::chrono::steady_clock;

void OneRequest(const MethodMetrics& method, ModelMetrics& model) {
  using Stage = ModelMetrics::Stage;
  method.started.Increment();
  method.in_flight.Increment();
  model.ObserveStage(Stage::kTokenize, absl::Microseconds(80));
  model.ObserveInput(40, false);
  model.SetQueue(40);
  model.ObserveStage(Stage::kQueue, absl::Microseconds(50));
  model.SetQueue(0);
  model.ObserveStage(Stage::kEncode, absl::Milliseconds(2));
  model.ObserveStage(Stage::kDecode, absl::Milliseconds(1));
  model.ObserveBatch(1, 40, 0);
  model.ObserveStage(Stage::kPostprocess, absl::Microseconds(30));
  model.CountPrediction(0, 1, .97);
  model.CountRequest(ModelMetrics::Result::kOk, 1, absl::Milliseconds(4));
  method.in_flight.Decrement();
  method.handling_seconds.Observe(.004);
  method.CountHandled(0);
}

int Run(double seconds) {
  Metrics metrics;
  const MethodMetrics method =
      metrics.Method("unary", "tasuki.v1.ClassificationService", "Classify");
  ServedModel served;
  served.name = "models/m/versions/1";
  served.tasks = {{"sentiment", {"negative", "neutral", "positive"}}};
  const auto model = metrics.ForModel(served);
  std::atomic<bool> stop = false;
  std::thread other([&] {
    while (!stop) OneRequest(method, *model);
  });
  std::vector<double> rounds;
  constexpr int kRequests = 1000;
  const auto begin = Clock::now();
  while (rounds.size() < 20 || Clock::now() - begin < std::chrono::duration<double>(seconds)) {
    const auto start = Clock::now();
    for (int i = 0; i < kRequests; ++i) OneRequest(method, *model);
    rounds.push_back(std::chrono::duration<double>(Clock::now() - start).count() / kRequests);
  }
  stop = true;
  other.join();
  std::sort(rounds.begin(), rounds.end());
  std::printf("{\"what\": \"metrics\", \"microseconds_per_request\": %.3f}\n",
              rounds[rounds.size() / 2] * 1e6);
  return 0;
}

}  // namespace
}  // namespace tasuki

int main(int count, char** arguments) {
  double seconds = 2;
  if (count == 3 && std::string(arguments[1]) == "--seconds") seconds = std::atof(arguments[2]);
  return tasuki::Run(seconds);
}
