// A classification from request to response, for every service that answers one: the fast path.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/rpc/work_thread.h"
#include "server/serving/model_registry.h"
#include "tasuki/v1/classification.pb.h"

namespace tasuki {

// Thread-safe.
class ClassificationPath {
 public:
  // A call, as its service knows it.
  struct Call {
    const v1::ClassifyRequest* request = nullptr;  // lives until `done`
    v1::ClassifyResponse* response = nullptr;      // lives until `done`
    absl::Time deadline = absl::InfiniteFuture();
    std::string caller;  // callers get equal shares when requests wait
    std::shared_ptr<const std::atomic<bool>> cancelled;  // may be null
    // Called once, with OK if the response is complete: on the thread of Run, or later on one of
    // the rooms'. Must not block. Holds no model any more: who unloads one waits for its last
    // handle.
    std::function<void(const absl::Status&)> done;
    Priority usual_priority = Priority::kInteractive;  // of a request that names none
    bool waits_for_room = false;                       // QUEUE_FULL is not its end: it comes again
  };

  explicit ClassificationPath(ModelRegistry& registry);
  // Never blocks. Errors are those of Classify.
  void Run(Call call);
  // The same on a model that was acquired already, whatever the request's `model` is.
  void Run(Call call, AcquiredModel model);

 private:
  void Submit(Call call, AcquiredModel model);

  ModelRegistry& registry_;
  // Tokenises what would hold up a reaction, of which gRPC has few threads, and a refusal is to be
  // answered at once: large requests, and those of shadows.
  WorkThread work_;
};

}  // namespace tasuki
