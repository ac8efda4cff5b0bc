// Dynamic batching on one device: one executor thread, a bounded queue for each version.
//
// No waiting by default: when the thread is idle it takes what is there. It picks the version whose
// oldest item waits longest, drops items that are cancelled or past their deadline before they cost
// anything, takes items in order of arrival until max_batch_tokens, sorts them by length, runs one
// forward pass with no lock held, and calls each item's `done` once. Thread-safe.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "model/t5/classifier.h"
#include "server/serving/loaded_model.h"

namespace tasuki {

// UNAVAILABLE, DRAINING: what a server that stops answers to new work.
absl::Status DrainingError();

struct BatcherOptions {
  int max_batch_tokens = 4096;
  int max_queue_tokens = 65536;
};

class Batcher {
 public:
  // One call's inputs; they may be split over several forward passes.
  struct Request {
    std::shared_ptr<const LoadedModel> model;  // kept until `done` has returned
    std::vector<Classifier::Input> inputs;
    absl::Time deadline = absl::InfiniteFuture();
    std::shared_ptr<const std::atomic<bool>> cancelled;  // may be null
    // log p of each label for each input. DEADLINE_EXCEEDED (DEADLINE_PASSED), CANCELLED, or what
    // the model answered. Called once, on the executor thread (or in Stop); must not block.
    std::function<void(absl::StatusOr<std::vector<std::vector<float>>>)> done;
  };

  Batcher(const BatcherOptions& options, Metrics& metrics);
  ~Batcher();
  // Never blocks. RESOURCE_EXHAUSTED (QUEUE_FULL, with RetryInfo) or UNAVAILABLE (DRAINING); then
  // `done` is not called. A request larger than the whole queue is taken if the queue is empty.
  absl::Status Submit(Request request);
  // Refuses new requests, finishes the queued ones, joins the thread.
  void Stop();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tasuki
