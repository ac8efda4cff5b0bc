// Random numbers that are the same on every machine and with every standard library: the engine is
// SplitMix64 (Steele, Lea and Flood 2014), and everything drawn from it is written out here.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <utility>
#include <vector>

namespace tasuki {

class Random {
 public:
  // Numbers that follow from all of `keys`, such as {seed, epoch, example}.
  explicit Random(std::initializer_list<int64_t> keys) {
    for (const int64_t key : keys) state_ = Next() ^ static_cast<uint64_t>(key);
  }

  // 64 even bits.
  uint64_t Next() {
    uint64_t bits = state_ += 0x9e3779b97f4a7c15;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111eb;
    return bits ^ (bits >> 31);
  }

  // Even over 0 … bound - 1 (Lemire 2019). REQUIRES: bound > 0.
  int64_t Below(int64_t bound) {
    const uint64_t range = static_cast<uint64_t>(bound);
    const uint64_t least = -range % range;  // what would make the first numbers likelier
    unsigned __int128 product;
    do {
      product = static_cast<unsigned __int128>(Next()) * range;
    } while (static_cast<uint64_t>(product) < least);
    return static_cast<int64_t>(product >> 64);
  }

  // Fisher and Yates.
  template <typename T>
  void Shuffle(std::vector<T>& values) {
    for (int64_t i = static_cast<int64_t>(values.size()) - 1; i > 0; --i) {
      std::swap(values[i], values[Below(i + 1)]);
    }
  }

 private:
  uint64_t state_ = 0;
};

}  // namespace tasuki
