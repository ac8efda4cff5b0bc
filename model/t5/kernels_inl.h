// The body of kernels_*.cc. Nothing is included that has inline functions of its own: what the
// compiler makes of those here must not be taken by the linker for the rest of the program.
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace tasuki {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kTile = 8;  // of 32 registers 24 hold sums
#elif defined(__AVX2__)
constexpr int kLanes = 8, kTile = 4;  // 12 of 16
#else
constexpr int kLanes = 4, kTile = 4;
#endif
constexpr int kVectors = 3;  // a panel's
constexpr int64_t kPanel = kVectors * kLanes;
constexpr int64_t kDepth = 768;  // groups at once: a panel of them stays in the L2 cache
constexpr int64_t kRows = 256;   // rows at once
static_assert(kTile * kDepth + kProductFloats <= kProductScratch);
static_assert(kPanel * kDepth <= kProductFloats);

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef float Unaligned __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef int32_t UnalignedInts __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Floats Load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }
inline void Save(float* to, Floats value) { *reinterpret_cast<Unaligned*>(to) = value; }
inline Floats All(float value) { return Floats{} + value; }
inline float Sum(Floats v) {
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += v[i];
  return sum;
}
inline float Largest(Floats v) {
  float largest = v[0];
  for (int i = 1; i < kLanes; ++i) largest = v[i] > largest ? v[i] : largest;
  return largest;
}
inline Floats Max(Floats a, Floats b) { return a > b ? a : b; }
// Up to kLanes floats; the rest is 0.
inline Floats LoadSome(const float* from, int64_t count) {
  Floats v{};
  for (int64_t i = 0; i < count; ++i) v[i] = from[i];
  return v;
}
inline void SaveSome(float* to, Floats value, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = value[i];
}
inline Floats AsFloats(Ints v) { return (Floats)v; }
inline Ints AsInts(Floats v) { return (Ints)v; }

// 1.5 * 2^23: adding it rounds to the nearest integer, which is then in the low bits.
constexpr float kRounder = 12582912.0f;
constexpr int32_t kRounderBits = 0x4B400000;

// e^x for x <= 88, to 2 units in the last place: 2^n times a polynomial in the rest (Cephes' expf).
inline Floats Exp(Floats x) {
  x = Max(x, All(-87.0f));
  const Floats shifted = x * 1.44269504f + kRounder;
  const Floats n = shifted - kRounder;
  const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  return p * AsFloats((AsInts(shifted) - kRounderBits + 127) << 23);
}

#if defined(__AVX512F__)
// A square of 16 rows becomes 16 columns of a panel.
inline __attribute__((always_inline)) void Turn(__m512 (&rows)[16], float* panel) {
  __m512 pairs[16];
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int half = 0; half < 2; ++half) {
      const __m512d a = _mm512_castps_pd(pairs[i + half]),
                    b = _mm512_castps_pd(pairs[i + 2 + half]);
      rows[i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
      rows[i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
  }
  // rows[4 q + j]: in its four quarters columns j, 4 + j, 8 + j, 12 + j of rows 4 q to 4 q + 3.
  for (int j = 0; j < 4; ++j) {
    const __m512 low = _mm512_shuffle_f32x4(rows[j], rows[4 + j], 0x44);
    const __m512 high = _mm512_shuffle_f32x4(rows[j], rows[4 + j], 0xEE);
    const __m512 low2 = _mm512_shuffle_f32x4(rows[8 + j], rows[12 + j], 0x44);
    const __m512 high2 = _mm512_shuffle_f32x4(rows[8 + j], rows[12 + j], 0xEE);
    _mm512_storeu_ps(panel + (j)*kPanel, _mm512_shuffle_f32x4(low, low2, 0x88));
    _mm512_storeu_ps(panel + (4 + j) * kPanel, _mm512_shuffle_f32x4(low, low2, 0xDD));
    _mm512_storeu_ps(panel + (8 + j) * kPanel, _mm512_shuffle_f32x4(high, high2, 0x88));
    _mm512_storeu_ps(panel + (12 + j) * kPanel, _mm512_shuffle_f32x4(high, high2, 0xDD));
  }
}
#endif

// kLanes rows of kLanes floats, that far apart.
inline void Turn(const float* from, int64_t stride, float* panel) {
#if defined(__AVX512F__)
  __m512 rows[16];
  for (int i = 0; i < 16; ++i) rows[i] = _mm512_loadu_ps(from + i * stride);
  Turn(rows, panel);
#else
  for (int c = 0; c < kLanes; ++c) {
    for (int k = 0; k < kLanes; ++k) panel[k * kPanel + c] = from[c * stride + k];
  }
#endif
}

// ---- Products ----------------------------------------------------------------------------------

template <Precision P>
struct Sums {
  using Vector = Floats;
};
template <>
struct Sums<Precision::kInt8> {
  using Vector = Ints;
};

template <Precision P>
inline __attribute__((always_inline)) typename Sums<P>::Vector MultiplyAdd(
    typename Sums<P>::Vector sums, int32_t left, const int32_t* right) {
  if constexpr (P == Precision::kFp32) {
    return sums + __builtin_bit_cast(float, left) * Load(reinterpret_cast<const float*>(right));
  } else {
#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)
    const __m512i a = _mm512_set1_epi32(left), b = _mm512_loadu_si512(right);
    if constexpr (P == Precision::kBf16) {
      return (Floats)_mm512_dpbf16_ps((__m512)sums, (__m512bh)a, (__m512bh)b);
    } else {
      return (Ints)_mm512_dpbusd_epi32((__m512i)sums, a, b);
    }
#else
    return sums;  // not offered
#endif
  }
}

// How the sums of a tile become output.
struct Ending {
  float* output;
  int64_t stride, columns;  // of the panel that there are
  bool first, last;         // of the depth
  OutputMode mode;
  const float *row_scales, *scales;  // int8
  const int32_t* offsets;
};

// Groups of the left operand: row by row, or kTile rows side by side.
template <Precision P, int R, bool kSideBySide>
inline __attribute__((always_inline)) void Tile(const int32_t* a, int64_t a_stride,
                                                const int32_t* b, int64_t b_stride, int64_t groups,
                                                const Ending& its_ending) {
  const Ending ending = its_ending;  // which no store can change
  typename Sums<P>::Vector sums[R][kVectors] = {};
  for (int64_t g = 0; g < groups; ++g, b += b_stride) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const int32_t left = kSideBySide ? a[g * kTile + r] : a[r * a_stride + g];
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) {
        sums[r][v] = MultiplyAdd<P>(sums[r][v], left, b + v * kLanes);
      }
    }
  }
  const bool adds =
      !ending.first || ending.mode == OutputMode::kAdd || ending.mode == OutputMode::kAddRelu;
  const bool cuts =
      ending.last && (ending.mode == OutputMode::kRelu || ending.mode == OutputMode::kAddRelu);
  const auto value = [&](int r, int v) __attribute__((always_inline)) {
    if constexpr (P == Precision::kInt8) {
      const Ints shift = *reinterpret_cast<const UnalignedInts*>(ending.offsets + v * kLanes);
      return __builtin_convertvector(sums[r][v] - shift, Floats) *
             Load(ending.scales + v * kLanes) * ending.row_scales[r];
    } else {
      return sums[r][v];
    }
  };
  if (ending.columns < kPanel) {
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v * kLanes < ending.columns; ++v) {
        const int64_t columns = ending.columns - v * kLanes;
        float* to = ending.output + r * ending.stride + v * kLanes;
        const bool whole = columns >= kLanes;
        Floats y = value(r, v);
        if (adds) y += whole ? Load(to) : LoadSome(to, columns);
        if (cuts) y = Max(y, Floats{});
        if (whole) {
          Save(to, y);
        } else {
          SaveSome(to, y, columns);
        }
      }
    }
    return;
  }
  const auto save = [&](const auto& one) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      float* to = ending.output + r * ending.stride;
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) one(to + v * kLanes, value(r, v));
    }
  };
  if (adds) {
    save([](float* to, Floats y) __attribute__((always_inline)) { Save(to, Load(to) + y); });
  } else if (!cuts) {
    save([](float* to, Floats y) __attribute__((always_inline)) { Save(to, y); });
  }
  if (cuts) {
    save([&](float* to, Floats y)
             __attribute__((always_inline)) { Save(to, Max(adds ? Load(to) : y, Floats{})); });
  }
}

// A tile of up to kTile rows.
template <Precision P, bool kSideBySide>
__attribute__((noinline)) void TileOf(int64_t rows, const int32_t* a, int64_t a_stride,
                                      const int32_t* b, int64_t b_stride, int64_t groups,
                                      const Ending& ending) {
  switch (rows) {
    case 1:
      return Tile<P, 1, kSideBySide>(a, a_stride, b, b_stride, groups, ending);
    case 2:
      return Tile<P, 2, kSideBySide>(a, a_stride, b, b_stride, groups, ending);
    case 3:
      return Tile<P, 3, kSideBySide>(a, a_stride, b, b_stride, groups, ending);
#if defined(__AVX512F__)
    case 4:
      return Tile<P, 4, kSideBySide>(a, a_stride, b, b_stride, groups, ending);
    case 5:
      return Tile<P, 5, kSideBySide>(a, a_stride, b, b_stride, groups, ending);
    case 6:
      return Tile<P, 6, kSideBySide>(a, a_stride, b, b_stride, groups, ending);
    case 7:
      return Tile<P, 7, kSideBySide>(a, a_stride, b, b_stride, groups, ending);
#endif
    default:
      return Tile<P, kTile, kSideBySide>(a, a_stride, b, b_stride, groups, ending);
  }
}

template <Precision P>
void Tiles(const int32_t* a, int64_t a_stride, int64_t rows, const int32_t* b, int64_t b_stride,
           int64_t groups, Ending ending) {
  for (; rows > 0; rows -= kTile) {
    TileOf<P, false>(rows, a, a_stride, b, b_stride, groups, ending);
    a += kTile * a_stride;
    ending.output += kTile * ending.stride;
    if (ending.row_scales != nullptr) ending.row_scales += kTile;
  }
}

template <Precision P>
void MultiplyPanels(const Operand& x, int64_t rows, const PackedWeights& weights,
                    int64_t first_panel, int64_t last_panel, const Output& output) {
  const int32_t* left = static_cast<const int32_t*>(x.data);
  for (int64_t row = 0; row < rows; row += kRows) {
    const int64_t count = rows - row < kRows ? rows - row : kRows;
    for (int64_t panel = first_panel; panel < last_panel; ++panel) {
      const int64_t column = panel * kPanel;
      for (int64_t g = 0; g < weights.groups; g += kDepth) {
        const bool last = weights.groups - g <= kDepth;
        const Ending ending = {output.data + row * output.stride + column,
                               output.stride,
                               weights.outputs - column,
                               g == 0,
                               last,
                               output.mode,
                               x.scales == nullptr ? nullptr : x.scales + row,
                               weights.scales.get() + column,
                               weights.offsets.get() + column};
        Tiles<P>(left + row * x.stride + g, x.stride, count,
                 weights.data.get() + (panel * weights.groups + g) * kPanel, kPanel,
                 last ? weights.groups - g : kDepth, ending);
      }
    }
  }
}

void Multiply(const Operand& x, int64_t rows, const PackedWeights& weights, int64_t first_panel,
              int64_t last_panel, const Output& output) {
  switch (weights.precision) {
    case Precision::kFp32:
      return MultiplyPanels<Precision::kFp32>(x, rows, weights, first_panel, last_panel, output);
    case Precision::kBf16:
      return MultiplyPanels<Precision::kBf16>(x, rows, weights, first_panel, last_panel, output);
    case Precision::kInt8:
      return MultiplyPanels<Precision::kInt8>(x, rows, weights, first_panel, last_panel, output);
  }
}

// The last columns, fewer than a panel, one vector at a time: what is behind them may not be read.
template <int R>
void PlainRest(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t inner,
               int64_t columns, const Output& output) {
  for (int64_t column = 0; column < columns; column += kLanes) {
    const int64_t count = columns - column < kLanes ? columns - column : kLanes;
    Floats sums[R] = {};
    for (int64_t k = 0; k < inner; ++k) {
      const float* from = b + k * b_stride + column;
      const Floats right = count == kLanes ? Load(from) : LoadSome(from, count);
      for (int r = 0; r < R; ++r) sums[r] += a[r * a_stride + k] * right;
    }
    for (int r = 0; r < R; ++r) {
      float* to = output.data + r * output.stride + column;
      if (output.mode == OutputMode::kAdd) sums[r] += LoadSome(to, count);
      SaveSome(to, sums[r], count);
    }
  }
}

void MultiplyPlain(const float* a, int64_t a_stride, int64_t rows, const float* b, int64_t b_stride,
                   int64_t inner, int64_t columns, const Output& output) {
  int64_t column = 0;
  for (; column + kPanel <= columns; column += kPanel) {
    const Ending ending = {output.data + column, output.stride, kPanel,  true,   true,
                           output.mode,          nullptr,       nullptr, nullptr};
    Tiles<Precision::kFp32>(reinterpret_cast<const int32_t*>(a), a_stride, rows,
                            reinterpret_cast<const int32_t*>(b + column), b_stride, inner, ending);
  }
  if (column == columns) return;
  for (int64_t row = 0; row < rows;) {
    const Output rest = {output.data + row * output.stride + column, output.stride, output.mode};
    const float* left = a + row * a_stride;
    if (rows - row >= kTile) {
      PlainRest<kTile>(left, a_stride, b + column, b_stride, inner, columns - column, rest);
      row += kTile;
    } else {
      PlainRest<1>(left, a_stride, b + column, b_stride, inner, columns - column, rest);
      ++row;
    }
  }
}

// Columns [column, column + kPanel) of rows [k, k + depth) of b, side by side; 0 beyond `columns`.
void CopyPanel(const Matrix& b, int64_t k, int64_t depth, int64_t column, int64_t columns,
               float* panel) {
  const int64_t there = columns - column < kPanel ? columns - column : kPanel;
  if (b.column == 1) {
    const float* from = b.data + k * b.row + column;
    for (int64_t i = 0; i < depth; ++i, from += b.row, panel += kPanel) {
      if (there == kPanel) {
        for (int v = 0; v < kVectors; ++v) Save(panel + v * kLanes, Load(from + v * kLanes));
      } else {
        for (int64_t c = 0; c < kPanel; ++c) panel[c] = c < there ? from[c] : 0;
      }
    }
    return;
  }
  // A column of b lies in one piece: kLanes of them at a time are turned.
  for (int64_t c = 0; c < kPanel; c += kLanes) {
    const float* from = b.data + (column + c) * b.column + k * b.row;
    int64_t i = 0;
    if (c + kLanes <= there && b.row == 1) {
      for (; i + kLanes <= depth; i += kLanes) Turn(from + i, b.column, panel + i * kPanel + c);
    }
    for (; i < depth; ++i) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        panel[i * kPanel + c + lane] = c + lane < there ? from[lane * b.column + i * b.row] : 0;
      }
    }
  }
}

// ---- Operands ----------------------------------------------------------------------------------

inline uint16_t ToBf16(float value) {  // to the nearest, ties to even; no NaN comes here
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

// x times `factor` and `weight` (null: ones) as a row of `operand`.
inline void ConvertRow(const float* x, int64_t width, const float* weight, float factor,
                       const Operand& operand, int64_t row) {
  int32_t* out = static_cast<int32_t*>(operand.data) + row * operand.stride;
  const auto value = [&](int64_t i) __attribute__((always_inline)) {
    return weight == nullptr ? x[i] : x[i] * factor * weight[i];
  };
  const int64_t whole = width - width % kLanes;
  const auto values = [&](int64_t i) __attribute__((always_inline)) {
    return weight == nullptr ? Load(x + i) : Load(x + i) * factor * Load(weight + i);
  };
  switch (operand.precision) {
    case Precision::kFp32: {
      float* to = reinterpret_cast<float*>(out);
      for (int64_t i = 0; i < whole; i += kLanes) Save(to + i, values(i));
      for (int64_t i = whole; i < width; ++i) to[i] = value(i);
      return;
    }
    case Precision::kBf16: {
      uint16_t* to = reinterpret_cast<uint16_t*>(out);
      int64_t i = 0;
#if defined(__AVX512BF16__)
      for (; i < whole; i += kLanes) {
        const __m256bh half = _mm512_cvtneps_pbh((__m512)values(i));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), (__m256i)half);
      }
#endif
      for (; i < width; ++i) to[i] = ToBf16(value(i));
      if (width % 2 != 0) to[width] = 0;
      return;
    }
    case Precision::kInt8: {
      Floats most{};
      for (int64_t i = 0; i < whole; i += kLanes) most = Max(most, Max(values(i), -values(i)));
      float largest = Largest(most);
      for (int64_t i = whole; i < width; ++i) {
        const float v = value(i);
        if (v > largest) largest = v;
        if (-v > largest) largest = -v;
      }
      operand.scales[row] = largest / 127;
      const float to_integer = largest > 0 ? 127 / largest : 0;
      uint8_t* to = reinterpret_cast<uint8_t*>(out);
      typedef uint8_t Bytes __attribute__((vector_size(kLanes), aligned(1), may_alias));
      for (int64_t i = 0; i < whole; i += kLanes) {
        const Ints q = AsInts(values(i) * to_integer + kRounder) - (kRounderBits - 128);
        *reinterpret_cast<Bytes*>(to + i) = __builtin_convertvector(q, Bytes);
      }
      for (int64_t i = whole; i < width; ++i) {
        const float shifted = value(i) * to_integer + kRounder;
        to[i] = static_cast<uint8_t>(__builtin_bit_cast(int32_t, shifted) - (kRounderBits - 128));
      }
      for (int64_t i = width; i % 4 != 0; ++i) to[i] = 128;
      return;
    }
  }
}

void Convert(const float* x, int64_t stride, int64_t rows, int64_t width, const Operand& operand) {
  for (int64_t row = 0; row < rows; ++row) {
    ConvertRow(x + row * stride, width, nullptr, 1, operand, row);
  }
}

float Dot(const float* a, const float* b, int64_t count) {
  Floats sums[2] = {};
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    sums[0] += Load(a + i) * Load(b + i);
    sums[1] += Load(a + i + kLanes) * Load(b + i + kLanes);
  }
  float sum = Sum(sums[0] + sums[1]);
  for (; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

void Norm(const float* x, int64_t rows, int64_t width, const float* weight, float epsilon,
          const Operand& operand) {
  for (int64_t row = 0; row < rows; ++row, x += width) {
    const float mean = Dot(x, x, width) / static_cast<float>(width);
    ConvertRow(x, width, weight, 1 / __builtin_sqrtf(mean + epsilon), operand, row);
  }
}

void Pack(const float* weights, int64_t stride, PackedWeights& packed) {
  if (packed.precision == Precision::kFp32) {
    const Matrix turned = {weights, 1, stride};
    for (int64_t column = 0; column < packed.outputs; column += kPanel) {
      CopyPanel(turned, 0, packed.width, column, packed.outputs,
                reinterpret_cast<float*>(packed.data.get()) + column * packed.groups);
    }
    return;
  }
  const int64_t size = GroupSize(packed.precision);
  const int64_t panels = (packed.outputs + kPanel - 1) / kPanel;
  for (int64_t column = 0; column < panels * kPanel; ++column) {
    int32_t* out = packed.data.get() + column / kPanel * packed.groups * kPanel + column % kPanel;
    if (column >= packed.outputs) {
      for (int64_t g = 0; g < packed.groups; ++g) out[g * kPanel] = 0;
      if (packed.precision == Precision::kInt8) packed.scales[column] = packed.offsets[column] = 0;
      continue;
    }
    const float* row = weights + column * stride;
    float largest = 0;
    for (int64_t i = 0; i < packed.width; ++i) {
      const float magnitude = row[i] < 0 ? -row[i] : row[i];
      largest = magnitude > largest ? magnitude : largest;
    }
    const float to_integer = largest > 0 ? 127 / largest : 0;
    int32_t sum = 0;
    for (int64_t g = 0; g < packed.groups; ++g) {
      uint32_t bits = 0;
      for (int64_t k = 0; k < size; ++k) {
        const int64_t i = g * size + k;
        const float w = i < packed.width ? row[i] : 0;
        if (packed.precision == Precision::kBf16) {
          bits |= static_cast<uint32_t>(ToBf16(w)) << (16 * k);
        } else {
          const int32_t q = __builtin_bit_cast(int32_t, w * to_integer + kRounder) - kRounderBits;
          sum += q;
          bits |= (static_cast<uint32_t>(q) & 0xFF) << (8 * k);
        }
      }
      out[g * kPanel] = static_cast<int32_t>(bits);
    }
    if (packed.precision == Precision::kInt8) {
      packed.scales[column] = largest / 127;
      packed.offsets[column] = 128 * sum;
    }
  }
}

// ---- Products of matrices that are used once ----------------------------------------------------

#if defined(__AVX512BF16__)
// Groups of bf16: the numbers of `low` in the lower halves, those of `high` in the upper.
inline Ints Pairs(Floats low, Floats high) {
  const __m512i l = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)low));
  const __m512i h = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)high));
  return (Ints)_mm512_or_si512(l, _mm512_slli_epi32(h, 16));
}
#endif

// CopyPanel for bf16: groups of rows k, k + 1, and so on; 0 beyond `depth` rows, too.
void CopyPanelOfPairs([[maybe_unused]] const Matrix& b, [[maybe_unused]] int64_t k,
                      [[maybe_unused]] int64_t depth, [[maybe_unused]] int64_t column,
                      [[maybe_unused]] int64_t columns, [[maybe_unused]] int32_t* panel) {
#if defined(__AVX512BF16__)
  const int64_t there = columns - column < kPanel ? columns - column : kPanel;
  const int64_t groups = (depth + 1) / 2;
  const auto at = [&](int64_t i, int64_t c) {
    return i < depth && c < there ? b.data[(k + i) * b.row + (column + c) * b.column] : 0;
  };
  const auto one_by_one = [&](int64_t g, int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) {
      panel[g * kPanel + c] =
          static_cast<int32_t>(ToBf16(at(2 * g, c)) | uint32_t{ToBf16(at(2 * g + 1, c))} << 16);
    }
  };
  for (int64_t c = 0; c < kPanel; c += kLanes) {
    int64_t g = 0;
    if (c + kLanes <= there && b.column == 1) {
      const float* from = b.data + k * b.row + column + c;
      for (; 2 * g + 1 < depth; ++g, from += 2 * b.row) {
        const Ints pairs = Pairs(Load(from), Load(from + b.row));
        *reinterpret_cast<UnalignedInts*>(panel + g * kPanel + c) = pairs;
      }
    } else if (c + kLanes <= there && b.row == 1) {
      const float* from = b.data + (column + c) * b.column + k;
      for (; 2 * (g + kLanes) <= depth; g += kLanes) {
        __m512 rows[16];
        for (int i = 0; i < 16; ++i) {
          const float* numbers = from + i * b.column + 2 * g;
          rows[i] =
              (__m512)_mm512_cvtne2ps_pbh((__m512)Load(numbers + kLanes), (__m512)Load(numbers));
        }
        Turn(rows, reinterpret_cast<float*>(panel + g * kPanel + c));
      }
    }
    for (; g < groups; ++g) one_by_one(g, c, c + kLanes);
  }
#endif
}

// Rows [0, count) of a, `depth` numbers each from its column 0 on, as groups of the left operand:
// row by row if the numbers of a row lie side by side, else kTile rows side by side.
template <Precision P>
void CopyLeft(const Matrix& a, int64_t count, int64_t depth, int32_t* left) {
  if constexpr (P == Precision::kFp32) {
    float* to = reinterpret_cast<float*>(left);
    for (int64_t i = 0; i < depth; ++i) {
      const float* from = a.data + i * a.column;
      if (count == kTile && a.row == 1) {
        __builtin_memcpy(to + i * kTile, from, kTile * sizeof(float));
        continue;
      }
      for (int64_t r = 0; r < count; ++r) to[i * kTile + r] = from[r * a.row];
    }
  } else if (a.column == 1) {
    const Operand operand = {P, left, kDepth};
    for (int64_t r = 0; r < count; ++r) {
      ConvertRow(a.data + r * a.row, depth, nullptr, 1, operand, r);
    }
  } else {
    for (int64_t i = 0; i < depth; i += 2) {
      const float *low = a.data + i * a.column, *high = low + a.column;
      int32_t* to = left + i / 2 * kTile;
#if defined(__AVX512BF16__)
      if (count == kTile && i + 1 < depth && a.row == 1) {
        const __m256i l = _mm256_cvtepu16_epi32((__m128i)_mm256_cvtneps_pbh(_mm256_loadu_ps(low)));
        const __m256i h = _mm256_cvtepu16_epi32((__m128i)_mm256_cvtneps_pbh(_mm256_loadu_ps(high)));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                            _mm256_or_si256(l, _mm256_slli_epi32(h, 16)));
        continue;
      }
#endif
      for (int64_t r = 0; r < count; ++r) {
        const uint32_t upper = i + 1 < depth ? ToBf16(high[r * a.row]) : 0;
        to[r] = static_cast<int32_t>(ToBf16(low[r * a.row]) | upper << 16);
      }
    }
  }
}

// What the next panels are copied from comes into the cache while these are multiplied: columns
// [first, last) of rows [k, k + depth), in parts by the rows that are done meanwhile.
class Ahead {
 public:
  Ahead(const Matrix& b, int64_t k, int64_t depth, int64_t first, int64_t last, int64_t rows)
      : from_(b.data + k * b.row + first * b.column),
        stride_(b.column == 1 ? b.row : b.column),
        lines_(((b.column == 1 ? last - first : depth) + 15) / 16),
        all_(last > first ? lines_ * (b.column == 1 ? depth : last - first) : 0),
        rows_(rows) {}
  void Fetch(int64_t row, int64_t count) const {
    const int64_t end = all_ * (row + count) / rows_;
    for (int64_t line = all_ * row / rows_; line < end; ++line) {
      __builtin_prefetch(from_ + line / lines_ * stride_ + line % lines_ * 16, 0, 2);
    }
  }

 private:
  const float* from_;
  int64_t stride_, lines_, all_, rows_;
};

template <Precision P>
void ProductIn(const Matrix& a, const Matrix& b, int64_t rows, int64_t inner, int64_t columns,
               int64_t first, int64_t last, const Output& output, float* scratch) {
  constexpr int64_t kSize = GroupSize(P);
  int32_t* const copied = reinterpret_cast<int32_t*>(scratch);
  int32_t* const panels = copied + kTile * kDepth;
  const bool row_by_row = a.column == 1, as_it_is = row_by_row && P == Precision::kFp32;
  for (int64_t k = 0; k < inner; k += kSize * kDepth) {
    const int64_t depth = inner - k < kSize * kDepth ? inner - k : kSize * kDepth;
    const int64_t groups = (depth + kSize - 1) / kSize;
    const int64_t together = kProductFloats / (groups * kPanel);
    for (int64_t begin = first; begin < last; begin += together * kPanel) {
      const int64_t end = last - begin < together * kPanel ? last : begin + together * kPanel;
      for (int64_t column = begin; column < end; column += kPanel) {
        int32_t* panel = panels + (column - begin) * groups;
        if constexpr (P == Precision::kFp32) {
          CopyPanel(b, k, depth, column, columns, reinterpret_cast<float*>(panel));
        } else {
          CopyPanelOfPairs(b, k, depth, column, columns, panel);
        }
      }
      const int64_t behind = last - end < together * kPanel ? last : end + together * kPanel;
      const Ahead ahead(b, k, depth, end, behind < columns ? behind : columns, rows);
      for (int64_t row = 0; row < rows; row += kTile) {
        const int64_t count = rows - row < kTile ? rows - row : kTile;
        const float* from = a.data + row * a.row + k * a.column;
        ahead.Fetch(row, count);
        if (!as_it_is) CopyLeft<P>({from, a.row, a.column}, count, depth, copied);
        const int32_t* left = as_it_is ? reinterpret_cast<const int32_t*>(from) : copied;
        for (int64_t column = begin; column < end; column += kPanel) {
          const Ending ending = {output.data + row * output.stride + column,
                                 output.stride,
                                 columns - column,
                                 k == 0,
                                 inner - k <= kSize * kDepth,
                                 output.mode,
                                 nullptr,
                                 nullptr,
                                 nullptr};
          const int32_t* right = panels + (column - begin) * groups;
          if (row_by_row) {
            TileOf<P, false>(count, left, as_it_is ? a.row : kDepth, right, kPanel, groups, ending);
          } else {
            TileOf<P, true>(count, left, 0, right, kPanel, groups, ending);
          }
        }
      }
    }
  }
}

void Product(Precision precision, const Matrix& a, const Matrix& b, int64_t rows, int64_t inner,
             int64_t columns, int64_t first, int64_t last, const Output& output, float* scratch) {
  if (precision == Precision::kBf16) {
    ProductIn<Precision::kBf16>(a, b, rows, inner, columns, first, last, output, scratch);
  } else {
    ProductIn<Precision::kFp32>(a, b, rows, inner, columns, first, last, output, scratch);
  }
}

// ---- The rest ----------------------------------------------------------------------------------

// gelu(x) by tanh is x times the logistic function of 2 sqrt(2/pi) (x + 0.044715 x^3).
void Gate(float* gate, const float* in, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t here = count - i < kLanes ? count - i : kLanes;
    const Floats x = here == kLanes ? Load(gate + i) : LoadSome(gate + i, here);
    const Floats y = here == kLanes ? Load(in + i) : LoadSome(in + i, here);
    const Floats u = 1.5957691216f * (x + 0.044715f * x * x * x);
    const Floats bounded = u > 40.0f ? All(40.0f) : u;
    const Floats result = x * y / (1.0f + Exp(-bounded));
    if (here == kLanes) {
      Save(gate + i, result);
    } else {
      SaveSome(gate + i, result, here);
    }
  }
}

float Softmax(float* scores, const float* bias, int64_t count) {
  const int64_t whole = count - count % kLanes;
  Floats most = All(-3e38f);
  for (int64_t i = 0; i < whole; i += kLanes) {
    const Floats v = bias == nullptr ? Load(scores + i) : Load(scores + i) + Load(bias + i);
    Save(scores + i, v);
    most = Max(most, v);
  }
  float largest = Largest(most);
  for (int64_t i = whole; i < count; ++i) {
    if (bias != nullptr) scores[i] += bias[i];
    largest = scores[i] > largest ? scores[i] : largest;
  }
  Floats sums{};
  for (int64_t i = 0; i < whole; i += kLanes) {
    const Floats v = Exp(Load(scores + i) - largest);
    Save(scores + i, v);
    sums += v;
  }
  if (whole < count) {
    Floats v = Exp(LoadSome(scores + whole, count - whole) - largest);
    SaveSome(scores + whole, v, count - whole);
    for (int64_t i = count - whole; i < kLanes; ++i) v[i] = 0;
    sums += v;
  }
  return Sum(sums);
}

void Scale(float* x, float factor, int64_t count) {
  for (int64_t i = 0; i < count; ++i) x[i] *= factor;
}

// Philox4x32-10 (Salmon et al. 2011) of eight counters {block, 0, i}: 64 even numbers that follow
// from the key and the block.
inline void RandomNumbers(uint64_t key, uint64_t block, uint16_t (&numbers)[64]) {
  constexpr uint32_t kFirst = 0xD2511F53, kSecond = 0xCD9E8D57;
  uint32_t low = static_cast<uint32_t>(key), high = static_cast<uint32_t>(key >> 32);
#if defined(__AVX512F__)
  // A word in each half: what is in the upper ones does not matter.
  __m512i x0 = _mm512_set1_epi64(static_cast<int64_t>(block));
  __m512i x1 = _mm512_srli_epi64(x0, 32);
  __m512i x2 = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7), x3 = _mm512_setzero_si512();
  const __m512i first = _mm512_set1_epi64(kFirst), second = _mm512_set1_epi64(kSecond);
  for (int round = 0; round < 10; ++round, low += 0x9E3779B9, high += 0xBB67AE85) {
    const __m512i a = _mm512_mul_epu32(x0, first), b = _mm512_mul_epu32(x2, second);
    x0 = _mm512_xor_si512(_mm512_xor_si512(_mm512_srli_epi64(b, 32), x1), _mm512_set1_epi64(low));
    x2 = _mm512_xor_si512(_mm512_xor_si512(_mm512_srli_epi64(a, 32), x3), _mm512_set1_epi64(high));
    x1 = b;
    x3 = a;
  }
  const __m512i odd = _mm512_set1_epi64(-1LL << 32);
  const __m512i front = _mm512_or_si512(_mm512_andnot_si512(odd, x0), _mm512_slli_epi64(x1, 32));
  const __m512i back = _mm512_or_si512(_mm512_andnot_si512(odd, x2), _mm512_slli_epi64(x3, 32));
  _mm512_storeu_si512(numbers, front);
  _mm512_storeu_si512(numbers + 32, back);
#else
  uint32_t x[4][8];
  for (uint32_t i = 0; i < 8; ++i) {
    x[0][i] = static_cast<uint32_t>(block);
    x[1][i] = static_cast<uint32_t>(block >> 32);
    x[2][i] = i;
    x[3][i] = 0;
  }
  for (int round = 0; round < 10; ++round, low += 0x9E3779B9, high += 0xBB67AE85) {
    for (int i = 0; i < 8; ++i) {
      const uint64_t a = uint64_t{kFirst} * x[0][i], b = uint64_t{kSecond} * x[2][i];
      x[0][i] = static_cast<uint32_t>(b >> 32) ^ x[1][i] ^ low;
      x[1][i] = static_cast<uint32_t>(b);
      x[2][i] = static_cast<uint32_t>(a >> 32) ^ x[3][i] ^ high;
      x[3][i] = static_cast<uint32_t>(a);
    }
  }
  for (int i = 0; i < 8; ++i) {
    for (int half = 0; half < 2; ++half) {
      for (int word = 0; word < 2; ++word) {
        const uint32_t bits = x[2 * half + word][i];
        numbers[32 * half + 4 * i + 2 * word] = static_cast<uint16_t>(bits);
        numbers[32 * half + 4 * i + 2 * word + 1] = static_cast<uint16_t>(bits >> 16);
      }
    }
  }
#endif
}

void Dropout(const float* x, const float* add, float* y, int64_t count, float share, uint64_t key,
             int64_t first) {
  const uint16_t threshold = static_cast<uint16_t>(share * 65536.0f);
  const float factor = 1 / (1 - share);
  uint16_t numbers[kDropoutBlock];
  for (int64_t begin = 0; begin < count; begin += kDropoutBlock) {
    RandomNumbers(key, static_cast<uint64_t>((first + begin) / kDropoutBlock), numbers);
    const float* from = x + begin;
    float* to = y + begin;
    if (count - begin >= kDropoutBlock) {
      for (int64_t i = 0; i < kDropoutBlock; i += kLanes) {
        Floats kept = Load(from + i) * factor;
        typedef uint16_t Shorts __attribute__((vector_size(2 * kLanes), aligned(2), may_alias));
        const Ints number =
            __builtin_convertvector(*reinterpret_cast<const Shorts*>(numbers + i), Ints);
        kept = number >= static_cast<int32_t>(threshold) ? kept : Floats{};
        Save(to + i, add == nullptr ? kept : Load(add + begin + i) + kept);
      }
      continue;
    }
    for (int64_t i = 0; i < count - begin; ++i) {
      const float kept = numbers[i] >= threshold ? from[i] * factor : 0;
      to[i] = add == nullptr ? kept : add[begin + i] + kept;
    }
  }
}

#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)
constexpr bool kNarrow = true;
#else
constexpr bool kNarrow = false;
#endif
constexpr Kernels kKernels = {
    .name = TASUKI_KERNELS,
    .bf16 = kNarrow,
    .int8 = kNarrow,
    .panel = kPanel,
    .pack = Pack,
    .multiply = Multiply,
    .multiply_plain = MultiplyPlain,
    .product = Product,
    .convert = Convert,
    .norm = Norm,
    .gate = Gate,
    .softmax = Softmax,
    .scale = Scale,
    .dropout = Dropout,
    .dot = Dot,
};

}  // namespace
}  // namespace tasuki
