// How long forward passes of a version take, learnt from those that there were.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "absl/time/time.h"

namespace tasuki {

// A value; not thread-safe. A token of a small pass costs more than one of a large pass, so there
// is a running mean for each power of two of tokens.
class Pace {
 public:
  void Observe(int64_t tokens, absl::Duration took) {
    double& mean = seconds_per_token_[SizeOf(tokens)];
    const double seen =
        absl::ToDoubleSeconds(took) / static_cast<double>(std::max<int64_t>(1, tokens));
    // A pause of the machine is no pace: one pass never counts for more than twice the mean.
    mean = mean == 0 ? seen : mean + kWeight * (std::min(seen, 2 * mean) - mean);
  }

  // Of `tokens` in passes of `largest` tokens at most; zero while nothing is known. Where no pass
  // of the size was seen, the next smaller size counts, which costs no less, and else the next
  // larger.
  absl::Duration Of(int64_t tokens, int64_t largest) const {
    const int size = SizeOf(std::min(tokens, largest));
    double mean = 0;
    for (int i = size; i >= 0 && mean == 0; --i) mean = seconds_per_token_[i];
    for (int i = size + 1; i < kSizes && mean == 0; ++i) mean = seconds_per_token_[i];
    return absl::Seconds(mean * static_cast<double>(tokens));
  }

 private:
  static constexpr int kSizes = 32;
  static constexpr double kWeight = .2;

  static int SizeOf(int64_t tokens) {
    return std::min<int>(std::bit_width(static_cast<uint64_t>(std::max<int64_t>(1, tokens))),
                         kSizes - 1);
  }

  std::array<double, kSizes> seconds_per_token_ = {};  // 0: not known
};

}  // namespace tasuki
