// Dynamic batching on one device: one batch thread, a bounded queue for each version.
//
// Who goes first. Interactive requests go before those in bulk. Among these or those, callers get
// equal shares of tokens by start-time fair queueing (Goyal et al. 1996): a request's start tag is
// the virtual time or the end of what its caller has waiting already, whichever is later; what has
// the smallest tag goes first, and virtual time is the tag of what went last. A caller who floods
// the queue so stands behind himself only.
//
// What a forward pass takes. No waiting by default: when the thread is idle it takes what is there.
// It drops what is cancelled, past its deadline or cannot be done before it any more, turns to the
// version of the first request, and takes inputs in that order until max_batch_tokens, or until the
// pass would take half of the time that one of its requests has left. They are sorted by length,
// computed with no lock held, and each request's `done` is called once.
//
// What is refused. What would exceed max_queue_tokens, unless requests that would be done later
// stand behind it: those are pushed out for it. And what cannot be answered before its deadline,
// seeing what stands before it and how long passes take (Pace). Thread-safe.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "model/t5/classifier.h"
#include "server/metrics/metrics.h"
#include "server/serving/loaded_model.h"

namespace tasuki {

struct BatcherOptions {
  int max_batch_tokens = 4096;
  int max_queue_tokens = 65536;
  // How long a forward pass that is not full may be put off for more requests to join it.
  absl::Duration max_delay = absl::ZeroDuration();
};

class Batcher {
 public:
  // What a request is answered with.
  struct Answer {
    std::vector<std::vector<float>> scores;  // log p of each label for each input
    absl::Duration queue;    // from Submit until the first input went into a forward pass
    absl::Duration forward;  // from there until the last had its scores
  };

  // One call's inputs; they may be split over several forward passes.
  struct Request {
    std::shared_ptr<const LoadedModel> model;  // kept until `done` has returned
    std::vector<Classifier::Input> inputs;
    int64_t bytes = 0;  // of the texts that they were made from, prefixes included
    absl::Time deadline = absl::InfiniteFuture();
    std::shared_ptr<const std::atomic<bool>> cancelled;  // may be null
    std::string caller;                                  // callers get equal shares
    Priority priority = Priority::kInteractive;
    bool waits_for_room = false;  // comes again if the queue is full, and is counted once it ends
    // An error is DEADLINE_EXCEEDED (DEADLINE_PASSED), CANCELLED, RESOURCE_EXHAUSTED (QUEUE_FULL)
    // of what was pushed out, or what the model answered. Called once, with no lock held, on the
    // batch thread, or on that of the Submit that pushes it out; must not block.
    std::function<void(absl::StatusOr<Answer>)> done;
  };

  Batcher(const BatcherOptions& options, Metrics& metrics);
  ~Batcher();
  // To be asked before inputs are made, with the bytes of each, prefix included: what is refused is
  // refused here, since how many tokens they are is known well enough. Errors are those of Submit,
  // and QUEUE_FULL where the answer would come too late.
  absl::Status Admit(const Request& request, absl::Span<const int64_t> input_bytes);
  // Never blocks. RESOURCE_EXHAUSTED (QUEUE_FULL, with RetryInfo), UNAVAILABLE (DRAINING),
  // DEADLINE_EXCEEDED (DEADLINE_PASSED) or CANCELLED; then `done` is not called. A request larger
  // than the whole queue is taken if the queue is empty.
  absl::Status Submit(Request request);
  // Refuses new requests, finishes the queued ones, joins the thread.
  void Stop();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tasuki
