// Request after request on one stream, each answered once, in their order: StreamClassify and
// ModelStreamInfer.
//
// A stream reads ahead while little of it waits, so that a client may write as fast as it can and
// costs a bounded amount of memory; gRPC's flow control holds it back. What is refused because a
// queue is full is tried again every few milliseconds instead. No thread of its own: reactions, the
// batcher's answers and an alarm of gRPC move a stream on. Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <set>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/rpc/classification_path.h"

namespace tasuki {

class OrderedStreams {
 public:
  // A request and its answer, as the stream's service knows them. One call at a time, on any
  // thread.
  class Exchange {
   public:
    virtual ~Exchange() = default;
    // Called first. An error is the answer, and nothing is asked.
    virtual absl::Status Read(const grpc::ByteBuffer& bytes) = 0;
    // Of the request that was read.
    virtual size_t request_bytes() const = 0;
    virtual int texts() const = 0;
    // Answers, and then calls `call.done`. Called again if that got QUEUE_FULL. `call` lacks
    // messages.
    virtual void Ask(ClassificationPath::Call call) = 0;
    // The answer, or the error in its place; called last, and gives the memory of messages back.
    virtual grpc::ByteBuffer Answer(const absl::Status& status) = 0;
  };

  explicit OrderedStreams(std::function<std::unique_ptr<Exchange>()> make_exchange);
  // REQUIRES: the gRPC server has ended all calls.
  ~OrderedStreams();

  // Starts a stream; the reactor is kept until gRPC is done with it. Never blocks.
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Start(
      grpc::CallbackServerContext& context);
  // No stream reads on: each ends with UNAVAILABLE (DRAINING) once what it has read is answered; so
  // do new ones.
  void Drain();

 private:
  class Stream;
  void Forget(Stream* stream);

  const std::function<std::unique_ptr<Exchange>()> make_exchange_;
  absl::Mutex mutex_;  // not held while a stream moves
  std::set<std::shared_ptr<Stream>> streams_ ABSL_GUARDED_BY(mutex_);
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tasuki
