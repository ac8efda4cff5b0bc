#include "server/rpc/work_thread.h"

#include <utility>

namespace tasuki {

WorkThread::WorkThread(size_t max_waiting)
    : max_waiting_(max_waiting), thread_([this] { Run(); }) {}

WorkThread::~WorkThread() { Stop(); }

bool WorkThread::TryRun(std::function<void()> work) {
  absl::MutexLock lock(&mutex_);
  if (stopping_ || waiting_.size() >= max_waiting_) return false;
  waiting_.push_back(std::move(work));
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
    std::function<void()> work;
    {
      absl::MutexLock lock(&mutex_);
      const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stopping_ || !waiting_.empty();
      };
      mutex_.Await(absl::Condition(&ready));
      if (waiting_.empty()) return;
      work = std::move(waiting_.front());
      waiting_.pop_front();
    }
    work();
  }
}

}  // namespace tasuki
