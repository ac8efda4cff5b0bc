#include "model/t5/probe.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <thread>

#include "model/t5/team.h"

namespace tasuki {
namespace {

constexpr int64_t kWidth = 768, kOutputs = 768;
constexpr int64_t kRows = 64;     // of a text or two
constexpr double kEnough = .012;  // seconds for kernels
constexpr int kTurns = 25;  // of each number of threads: one of them is undisturbed, most often
constexpr double kWorthFewerThreads = .8;

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// The product that is measured.
class Product {
 public:
  Product(const Kernels& kernels, Precision precision, int64_t rows)
      : kernels_(kernels),
        rows_(rows),
        weights_(MakePacked(kernels, precision, kOutputs, kWidth)),
        left_(MakeAligned<int32_t>(rows * weights_.groups)),
        scales_(MakeAligned<float>(rows)),
        result_(MakeAligned<float>(rows * kOutputs)),
        x_{precision, left_.get(), weights_.groups,
           precision == Precision::kInt8 ? scales_.get() : nullptr} {
    const std::vector<float> numbers(std::max(kOutputs, rows) * kWidth, .5f);
    kernels.pack(numbers.data(), kWidth, weights_);
    kernels.convert(numbers.data(), kWidth, rows, kWidth, x_);
  }

  // Seconds that it takes, now.
  double Seconds(int threads) const {
    const Clock::time_point begin = Clock::now();
    Run(threads);
    return SecondsSince(begin);
  }

 private:
  void Run(int threads) const {
    const auto share = [&](const Member& member) {
      const auto [first, last] = member.Share(Panels(kernels_, kOutputs));
      kernels_.multiply(x_, rows_, weights_, first, last, {result_.get(), kOutputs});
    };
    if (threads == 1) {
      share(Member::Alone());
    } else {
      RunTeam(threads, share);
    }
  }

  const Kernels& kernels_;
  const int64_t rows_;
  PackedWeights weights_;
  const Aligned<int32_t> left_;
  const Aligned<float> scales_, result_;
  const Operand x_;
};

}  // namespace

const Kernels& FastestKernels(Precision precision, const std::vector<const Kernels*>& candidates) {
  if (candidates.size() == 1) return *candidates.front();
  std::vector<double> least(candidates.size(), std::numeric_limits<double>::infinity());
  for (size_t i = 0; i < candidates.size(); ++i) {
    const Product product(*candidates[i], precision, kRows);
    const Clock::time_point begin = Clock::now();
    do {
      least[i] = std::min(least[i], product.Seconds(1));
    } while (SecondsSince(begin) < kEnough);
  }
  return *candidates[std::min_element(least.begin(), least.end()) - least.begin()];
}

int FastestThreads(const Kernels& kernels, Precision precision, int64_t rows, int most) {
  std::vector<int> counts = {most};
  for (int threads = 1; threads < most; threads *= 2) counts.push_back(threads);
  if (counts.size() == 1) return most;
  std::vector<double> least(counts.size(), std::numeric_limits<double>::infinity());
  // On a thread of its own, with which the OpenMP threads that it starts end.
  std::thread([&] {
    const Product product(kernels, precision, rows);
    for (int turn = 0; turn < kTurns; ++turn) {
      for (size_t i = 0; i < counts.size(); ++i) {
        least[i] = std::min(least[i], product.Seconds(counts[i]));
      }
    }
  }).join();
  const size_t fastest = std::min_element(least.begin(), least.end()) - least.begin();
  return least[fastest] < least[0] * kWorthFewerThreads ? counts[fastest] : most;
}

}  // namespace tasuki
