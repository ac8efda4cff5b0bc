// One thread for work that would hold up a reaction, with a short queue.
#pragma once

#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace tasuki {

// Thread-safe.
class WorkThread {
 public:
  explicit WorkThread(size_t max_waiting);
  ~WorkThread();
  // Takes the work unless the queue is full or the thread stopped. Never blocks. Work must not
  // throw.
  bool TryRun(std::function<void()> work);
  // Does what was taken, and joins.
  void Stop();

 private:
  void Run();

  const size_t max_waiting_;
  absl::Mutex mutex_;
  std::deque<std::function<void()>> waiting_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::once_flag joined_;
  std::thread thread_;
};

}  // namespace tasuki
