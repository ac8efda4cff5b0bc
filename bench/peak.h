// What this machine can do, and what a T5 asks of it: the same for every bench.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "model/t5/config.h"
#include "model/t5/kernels.h"
#include "model/t5/team.h"

namespace tasuki {

inline double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The most memory that this process has had, and forgetting it, so that the most from then on is
// told; in bytes.
inline double PeakMemory() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("VmHWM:")) return 1024 * std::strtod(line.c_str() + 6, nullptr);
  }
  return 0;
}
inline void ForgetPeakMemory() { std::ofstream("/proc/self/clear_refs") << 5; }

// FLOP a second of [512, 768] times [3072, 768], the best of many.
inline double Peak(Precision precision, int threads) {
  const Kernels& kernels = BestKernels();
  const int64_t rows = 512, width = 768, outputs = 3072;
  PackedWeights weights = MakePacked(kernels, precision, outputs, width);
  const std::vector<float> numbers(outputs * width, .5f);
  kernels.pack(numbers.data(), width, weights);
  const auto left = MakeAligned<int32_t>(rows * weights.groups);
  const auto scales = MakeAligned<float>(rows);
  const Operand x = {precision, left.get(), weights.groups,
                     precision == Precision::kInt8 ? scales.get() : nullptr};
  kernels.convert(numbers.data(), width, rows, width, x);
  const auto y = MakeAligned<float>(rows * outputs);
  double best = 1e9;
  for (const double end = Now() + .7; Now() < end;) {
    RunTeam(threads, [&](const Member& member) {
      const auto [first, last] = member.Share(outputs / kernels.panel);
      for (int i = 0; i < 4; ++i) {
        member.Meet();
        const double begin = Now();
        kernels.multiply(x, rows, weights, first, last, {y.get(), outputs});
        member.Meet();
        if (member.index() == 0) best = std::min(best, Now() - begin);
      }
    });
  }
  return 2.0 * rows * width * outputs / best;
}

// Nominal FLOP: twice the weights of the products that an input token (encoder), or a decoder row,
// goes through. Keys and values of cross-attention count nothing.
inline double FeedForwardWeights(const T5Config& config) {
  return static_cast<double>((config.gated ? 3 : 2) * config.d_model * config.d_ff);
}
inline double AttentionWeight(const T5Config& config) {
  return static_cast<double>(config.d_model * config.num_heads * config.d_kv);
}
inline double FlopOfToken(const T5Config& config) {
  return 2.0 * config.num_layers * (4 * AttentionWeight(config) + FeedForwardWeights(config));
}
inline double FlopOfRow(const T5Config& config) {
  return 2.0 * config.num_decoder_layers *
         (6 * AttentionWeight(config) + FeedForwardWeights(config));
}

}  // namespace tasuki
