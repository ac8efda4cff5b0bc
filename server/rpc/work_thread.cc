#include "server/rpc/work_thread.h"

#include <utility>

namespace tasuki {

WorkThread::WorkThread(size_t max_waiting_bytes)
    : max_waiting_bytes_(max_waiting_bytes), thread_([this] { Run(); }) {}

WorkThread::~WorkThread() { Stop(); }

bool WorkThread::TryRun(size_t bytes, std::function<void()> work) {
  absl::MutexLock lock(&mutex_);
  if (stopping_) return false;
  if (!waiting_.empty() && waiting_bytes_ + bytes > max_waiting_bytes_) return false;
  waiting_.push_back({bytes, std::move(work)});
  waiting_bytes_ += bytes;
  return true;
}

void WorkThread::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  std::call_once(joined_, [this] { thread_.join(); });
}

void WorkThread::Run() {
  while (true) {
    Work work;
    {
      absl::MutexLock lock(&mutex_);
      const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stopping_ || !waiting_.empty();
      };
      mutex_.Await(absl::Condition(&ready));
      if (waiting_.empty()) return;
      work = std::move(waiting_.front());
      waiting_.pop_front();
      waiting_bytes_ -= work.bytes;
    }
    work.run();
  }
}

}  // namespace tasuki
