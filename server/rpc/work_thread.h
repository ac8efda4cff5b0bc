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
  // Takes work until so many bytes of it wait.
  explicit WorkThread(size_t max_waiting_bytes);
  ~WorkThread();
  // Takes the work unless the queue is full or the thread stopped; an empty queue takes any. Never
  // blocks. Work must not throw.
  bool TryRun(size_t bytes, std::function<void()> work);
  // Does what was taken, and joins.
  void Stop();

 private:
  void Run();

  struct Work {
    size_t bytes = 0;
    std::function<void()> run;
  };

  const size_t max_waiting_bytes_;
  absl::Mutex mutex_;
  std::deque<Work> waiting_ ABSL_GUARDED_BY(mutex_);
  size_t waiting_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::once_flag joined_;
  std::thread thread_;
};

}  // namespace tasuki
