#include "model/t5/team.h"

#include <algorithm>
#include <exception>
#include <mutex>

// What GCC makes of "#pragma omp parallel", called by name: the libgomp that LibTorch brings along
// is used, whatever the compiler has.
extern "C" {
void GOMP_parallel(void (*work)(void*), void* data, unsigned threads, unsigned flags);
int omp_get_thread_num();
int omp_get_num_threads();
}

namespace tasuki {

class Member::Meeting {
 public:
  void Meet(int size) {
    const int round = round_.load(std::memory_order_acquire);
    if (here_.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
      here_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      round_.notify_all();
      return;
    }
    // The others are microseconds away, unless another program has their processor.
    for (int i = 0; i < 5000; ++i) {
      if (round_.load(std::memory_order_acquire) != round) return;
      __builtin_ia32_pause();
    }
    round_.wait(round, std::memory_order_acquire);
  }

 private:
  std::atomic<int> here_ = 0, round_ = 0;
};

void Member::Meet() const {
  if (size_ > 1) meeting_->Meet(size_);
}

void RunRanges(int size, int64_t count, int64_t least,
               const std::function<void(int64_t begin, int64_t end)>& work) {
  size = static_cast<int>(std::min<int64_t>(size, count / least));
  if (size <= 1) return work(0, count);
  RunTeam(size, [&](const Member& member) {
    const auto [begin, end] = member.Share(count);
    work(begin, end);
  });
}

void RunTeam(int size, const std::function<void(const Member&)>& work) {
  struct Shared {
    const std::function<void(const Member&)>& work;
    Member::Meeting meeting;
    std::mutex mutex;
    std::exception_ptr thrown;
  } shared = {work, {}, {}, {}};
  const auto run = [](void* data) {
    Shared& shared = *static_cast<Shared*>(data);
    try {
      shared.work(Member(omp_get_thread_num(), omp_get_num_threads(), &shared.meeting));
    } catch (...) {
      const std::lock_guard lock(shared.mutex);
      shared.thrown = std::current_exception();
    }
  };
  GOMP_parallel(run, &shared, static_cast<unsigned>(size), /*flags=*/0);
  if (shared.thrown) std::rethrow_exception(shared.thrown);
}

}  // namespace tasuki
