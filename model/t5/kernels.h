// The arithmetic of T5Scorer on a CPU, compiled once for each instruction set (kernels_inl.h).
//
// A product y = x Wᵀ has a left operand (rows of activations) and a right one (weights, packed). In
// every precision both are made of groups of 32 bits along the width: 1 float, 2 bf16 or 4 int8, so
// that one loop serves all: a group of the left operand is broadcast, multiplied with the same
// group of 16 (AVX-512) columns, and added to 16 sums. Sums are fp32 (int32 for int8). Each row is
// summed in the same order however many rows there are: an answer does not depend on its batch.
//
// int8: weights are scaled by output (±127), activations by row and shifted to unsigned (127 ↔
// 255), as VPDPBUSD wants them; the shift times the sum of an output's weights is taken off again.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

namespace tasuki {

enum class Precision { kFp32, kBf16, kInt8 };
const char* PrecisionName(Precision precision);  // "fp32", "bf16" or "int8"
std::optional<Precision> PrecisionNamed(std::string_view name);
// Numbers in a group of 32 bits.
constexpr int64_t GroupSize(Precision precision) {
  return precision == Precision::kFp32 ? 1 : precision == Precision::kBf16 ? 2 : 4;
}

// Memory on a cache line's boundary, not initialised.
struct FreeAligned {
  void operator()(void* memory) const;
};
template <typename T>
using Aligned = std::unique_ptr<T[], FreeAligned>;
void* AllocateAligned(int64_t bytes);  // LibTorch's; throws c10::Error or std::bad_alloc
template <typename T>
Aligned<T> MakeAligned(int64_t count) {
  return Aligned<T>(static_cast<T*>(AllocateAligned(count * static_cast<int64_t>(sizeof(T)))));
}

// Rows of a left operand; a view. fp32 rows are plain floats.
struct Operand {
  Precision precision;
  void* data;
  int64_t stride;           // groups from row to row
  float* scales = nullptr;  // of each row; int8 only
};

// Weights [outputs, width] as right operand: panels of `Kernels::panel` outputs, in a panel the
// groups one after the other, each with its outputs side by side.
struct PackedWeights {
  Precision precision;
  int64_t outputs = 0, width = 0, groups = 0;
  Aligned<int32_t> data;
  Aligned<float> scales;     // of each output, int8 only
  Aligned<int32_t> offsets;  // of each output, int8 only: 128 times the sum of its weights

  int64_t bytes() const;
};

// A matrix of floats: element (i, j) is data[i * row + j * column], and one of the two is 1.
struct Matrix {
  const float* data;
  int64_t row, column;
};
// What `Kernels::product` copies parts of its right matrix to, and what it needs in all.
constexpr int64_t kProductFloats = 98304, kProductScratch = kProductFloats + 8192;

// Of the calling thread, as long as it lives: no part of what a step needs, so not LibTorch's.
float* ProductScratch();
constexpr int64_t kDropoutBlock = 64;

enum class OutputMode { kSet, kAdd, kRelu, kAddRelu };  // the last: relu(what was there + product)
struct Output {
  float* data;
  int64_t stride;  // floats from row to row
  OutputMode mode = OutputMode::kSet;
};

// Pointers and counts are the caller's promise. Thread-safe; no function allocates.
struct Kernels {
  const char* name;  // "avx512", "avx2" or "portable"
  bool bf16, int8;   // precisions beside fp32
  int64_t panel;     // outputs in a panel

  // Fills what MakePacked made from weights [outputs, width] with that many floats from row to row.
  void (*pack)(const float* weights, int64_t stride, PackedWeights& packed);
  // Panels [first_panel, last_panel) of x Wᵀ for `rows` rows.
  void (*multiply)(const Operand& x, int64_t rows, const PackedWeights& weights,
                   int64_t first_panel, int64_t last_panel, const Output& output);
  // y = a b for a [rows, inner], b [inner, columns], all fp32 and row by row.
  void (*multiply_plain)(const float* a, int64_t a_stride, int64_t rows, const float* b,
                         int64_t b_stride, int64_t inner, int64_t columns, const Output& output);
  // Columns [first, last) of a b for a [rows, inner], b [inner, columns]; first is a multiple of
  // `panel`. For matrices that are used once: `scratch`, kProductScratch floats, takes the place of
  // packing. `precision` is fp32 or bf16, to which both are rounded on the way.
  void (*product)(Precision precision, const Matrix& a, const Matrix& b, int64_t rows,
                  int64_t inner, int64_t columns, int64_t first, int64_t last, const Output& output,
                  float* scratch);
  // Rows as a left operand: as they are, or divided by their root mean square and times `weight`.
  void (*convert)(const float* x, int64_t stride, int64_t rows, int64_t width,
                  const Operand& operand);
  void (*norm)(const float* x, int64_t rows, int64_t width, const float* weight, float epsilon,
               const Operand& operand);
  // gate = gelu(gate) * in, gelu by its tanh form.
  void (*gate)(float* gate, const float* in, int64_t count);
  // weights = exp(scores + bias - their maximum); answers the sum. `bias` may be null.
  float (*softmax)(float* scores, const float* bias, int64_t count);
  void (*scale)(float* x, float factor, int64_t count);
  // y = x, but 0 with probability `share` and else divided by 1 - share; and `add` to it if that is
  // not null. What becomes 0 follows from `key` and the place in the whole, where x[0] is at
  // `first`, a multiple of kDropoutBlock. y may be x.
  void (*dropout)(const float* x, const float* add, float* y, int64_t count, float share,
                  uint64_t key, int64_t first);
  float (*dot)(const float* a, const float* b, int64_t count);
};

// Panels that so many outputs take; the last may be in part.
inline int64_t Panels(const Kernels& kernels, int64_t outputs) {
  return (outputs + kernels.panel - 1) / kernels.panel;
}
// Room for weights of this shape, for `pack` to fill.
PackedWeights MakePacked(const Kernels& kernels, Precision precision, int64_t outputs,
                         int64_t width);

// Those that this process uses: the best of this machine, or what UseKernels was told.
const Kernels& BestKernels();
// REQUIRES: before weights are packed or anything is computed.
void UseKernels(const Kernels& kernels);
// Whether they can multiply in this precision.
inline bool CanDo(const Kernels& kernels, Precision precision) {
  return precision == Precision::kFp32 ||
         (precision == Precision::kBf16 ? kernels.bf16 : kernels.int8);
}
// Those that this machine can run, the best first.
std::vector<const Kernels*> AvailableKernels();
// The one of them that has this name; null if none has.
const Kernels* KernelsNamed(std::string_view name);

}  // namespace tasuki
