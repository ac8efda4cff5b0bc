// StreamClassify: request after request on one stream, each answered once, in their order.
//
// A stream reads ahead while little of it waits, so that a client may write as fast as it can and
// costs a bounded amount of memory; gRPC's flow control holds it back. What is refused because a
// queue is full is tried again every few milliseconds instead. No thread of its own: reactions, the
// batcher's answers and an alarm of gRPC move a stream on. Thread-safe.
#pragma once

#include <memory>
#include <set>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/rpc/classification_path.h"

namespace tasuki {

class ClassifyStreams {
 public:
  explicit ClassifyStreams(ClassificationPath& path);
  // REQUIRES: the gRPC server has ended all calls.
  ~ClassifyStreams();

  // Starts a stream; the reactor is kept until gRPC is done with it. Never blocks.
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Start(
      grpc::CallbackServerContext& context);
  // No stream reads on: each ends with UNAVAILABLE (DRAINING) once what it has read is answered; so
  // do new ones.
  void Drain();

 private:
  class Stream;
  void Forget(Stream* stream);

  ClassificationPath& path_;
  absl::Mutex mutex_;  // not held while a stream moves
  std::set<std::shared_ptr<Stream>> streams_ ABSL_GUARDED_BY(mutex_);
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tasuki
