// Threads that compute one thing together: LibTorch's OpenMP threads, so that there is one pool.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <utility>

namespace tasuki {

// One thread of a team, as its work sees it.
class Member {
 public:
  class Meeting;  // where the threads of a team wait for each other
  Member(int index, int size, Meeting* meeting) : index_(index), size_(size), meeting_(meeting) {}

  int index() const { return index_; }
  int size() const { return size_; }
  // This thread's share of `count` things: [first, second).
  std::pair<int64_t, int64_t> Share(int64_t count) const {
    return {count * index_ / size_, count * (index_ + 1) / size_};
  }
  // Until every thread of the team is here. All of them must come.
  void Meet() const;
  // A team of this thread alone.
  static Member Alone() { return Member(0, 1, nullptr); }

 private:
  int index_, size_;
  Meeting* meeting_;
};

// Parts of [0, count), at least `least` long, on up to `size` threads.
void RunRanges(int size, int64_t count, int64_t least,
               const std::function<void(int64_t begin, int64_t end)>& work);

// Runs `work` on `size` threads, the caller's among them, or on fewer if there are not as many.
// What it throws on any of them is thrown here; one that meets others must not throw.
void RunTeam(int size, const std::function<void(const Member&)>& work);

}  // namespace tasuki
