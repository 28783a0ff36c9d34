// Sixteen float lanes that mean the same on every instruction set, and the functions made of them.
//
// A kernel file is compiled once per target (SIMD_TARGET is portable, avx2 or avx512) and gives the same bits
// from each: lanes are always sixteen, every multiply-add is a fused one that is written out, sums over lanes
// go through one fixed tree, and exp, log, sin and cos are polynomials of our own. Kernels are built with
// -ffp-contract=off and without fast-math; the floating-point mode is never changed.
//
// Coefficients of exp, log, sin and cos: Cephes single precision (S. Moshier, netlib.org/cephes, expf/logf/sinf).
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "engine/core/tensor.h"

#ifndef SIMD_TARGET
#define SIMD_TARGET portable
#endif

#if defined(__AVX512F__)
#define SIMD_WIDTH 16
#elif defined(__AVX2__)
#define SIMD_WIDTH 8
#else
#define SIMD_WIDTH 4
#endif

namespace engine::simd {
inline namespace SIMD_TARGET {

inline constexpr int kLanes = 16;
inline constexpr int kParts = kLanes / SIMD_WIDTH;

typedef float NativeF __attribute__((vector_size(SIMD_WIDTH * 4), aligned(4), may_alias));
typedef int32_t NativeI __attribute__((vector_size(SIMD_WIDTH * 4), aligned(4), may_alias));
typedef uint32_t NativeU __attribute__((vector_size(SIMD_WIDTH * 4), aligned(4), may_alias));

// Sixteen floats, and sixteen integers or masks (all bits set where true).
struct F16 {
  NativeF part[kParts];
};
struct I16 {
  NativeI part[kParts];
};

#define SIMD_EACH _Pragma("GCC unroll 4") for (int i = 0; i < kParts; ++i)
#define SIMD_BINARY(Result, op, A, B)             \
  ALWAYS_INLINE Result operator op(A a, B b) {    \
    Result r;                                     \
    SIMD_EACH r.part[i] = a.part[i] op b.part[i]; \
    return r;                                     \
  }
SIMD_BINARY(F16, +, F16, F16)
SIMD_BINARY(F16, -, F16, F16)
SIMD_BINARY(F16, *, F16, F16)
SIMD_BINARY(F16, /, F16, F16)
SIMD_BINARY(I16, <, F16, F16)
SIMD_BINARY(I16, >, F16, F16)
SIMD_BINARY(I16, >=, F16, F16)
SIMD_BINARY(I16, ==, F16, F16)
SIMD_BINARY(I16, &, I16, I16)
SIMD_BINARY(I16, |, I16, I16)
SIMD_BINARY(I16, ==, I16, I16)
#undef SIMD_BINARY

// Integer sums wrap: they build exponents and signs of floats.
ALWAYS_INLINE I16 operator+(I16 a, I16 b) {
  I16 r;
  SIMD_EACH r.part[i] = (NativeI)((NativeU)a.part[i] + (NativeU)b.part[i]);
  return r;
}
ALWAYS_INLINE I16 operator-(I16 a, I16 b) {
  I16 r;
  SIMD_EACH r.part[i] = (NativeI)((NativeU)a.part[i] - (NativeU)b.part[i]);
  return r;
}

ALWAYS_INLINE F16 broadcast(float x) {
  F16 r;
  SIMD_EACH r.part[i] = x - NativeF{};
  return r;
}
ALWAYS_INLINE I16 broadcast_int(int32_t x) {
  I16 r;
  SIMD_EACH r.part[i] = x - NativeI{};
  return r;
}
ALWAYS_INLINE F16 zero() {
  return broadcast(0.0f);
}

ALWAYS_INLINE F16 load(const float* p) {
  F16 r;
  SIMD_EACH r.part[i] = *reinterpret_cast<const NativeF*>(p + i * SIMD_WIDTH);
  return r;
}
ALWAYS_INLINE void store(float* p, F16 x) {
  SIMD_EACH* reinterpret_cast<NativeF*>(p + i * SIMD_WIDTH) = x.part[i];
}
// The first n lanes, 0 <= n <= 16; the other lanes are `fill`, and memory beyond n is not touched.
ALWAYS_INLINE F16 load_first(const float* p, int64_t n, float fill = 0.0f) {
  float lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = i < n ? p[i] : fill;
  return load(lanes);
}
ALWAYS_INLINE void store_first(float* p, F16 x, int64_t n) {
  float lanes[kLanes];
  store(lanes, x);
  for (int i = 0; i < kLanes; ++i) {
    if (i < n) p[i] = lanes[i];
  }
}

// a * b + c with one rounding.
ALWAYS_INLINE F16 fma(F16 a, F16 b, F16 c) {
  F16 r;
#if defined(__AVX512F__)
  r.part[0] = (NativeF)_mm512_fmadd_ps((__m512)a.part[0], (__m512)b.part[0], (__m512)c.part[0]);
#elif defined(__AVX2__)
  SIMD_EACH r.part[i] = (NativeF)_mm256_fmadd_ps((__m256)a.part[i], (__m256)b.part[i], (__m256)c.part[i]);
#else
  SIMD_EACH for (int j = 0; j < SIMD_WIDTH; ++j) {
    r.part[i][j] = __builtin_fmaf(a.part[i][j], b.part[i][j], c.part[i][j]);
  }
#endif
  return r;
}
ALWAYS_INLINE float fma(float a, float b, float c) {
  return __builtin_fmaf(a, b, c);
}

ALWAYS_INLINE F16 sqrt(F16 x) {
  F16 r;
#if defined(__AVX512F__)
  r.part[0] = (NativeF)_mm512_maskz_sqrt_ps(0xffff, (__m512)x.part[0]);
#elif defined(__AVX2__)
  SIMD_EACH r.part[i] = (NativeF)_mm256_sqrt_ps((__m256)x.part[i]);
#else
  SIMD_EACH for (int j = 0; j < SIMD_WIDTH; ++j) r.part[i][j] = __builtin_sqrtf(x.part[i][j]);
#endif
  return r;
}

ALWAYS_INLINE I16 as_int(F16 x) {
  I16 r;
  SIMD_EACH r.part[i] = (NativeI)x.part[i];
  return r;
}
ALWAYS_INLINE F16 as_float(I16 x) {
  F16 r;
  SIMD_EACH r.part[i] = (NativeF)x.part[i];
  return r;
}
ALWAYS_INLINE F16 to_float(I16 x) {
  F16 r;
  SIMD_EACH r.part[i] = __builtin_convertvector(x.part[i], NativeF);
  return r;
}
template <int kBits>
ALWAYS_INLINE I16 shift_left(I16 x) {
  I16 r;
  SIMD_EACH r.part[i] = (NativeI)((NativeU)x.part[i] << kBits);
  return r;
}
template <int kBits>
ALWAYS_INLINE I16 shift_right(I16 x) {  // keeps the sign
  I16 r;
  SIMD_EACH r.part[i] = x.part[i] >> kBits;
  return r;
}
// mask ? a : b in each lane
ALWAYS_INLINE F16 select(I16 mask, F16 a, F16 b) {
  F16 r;
  SIMD_EACH r.part[i] = (NativeF)(((NativeI)a.part[i] & mask.part[i]) | ((NativeI)b.part[i] & ~mask.part[i]));
  return r;
}
// a > b ? a : b; b where either is not a number
ALWAYS_INLINE F16 max(F16 a, F16 b) {
#if defined(__AVX512F__)
  return {{(NativeF)_mm512_maskz_max_ps(0xffff, (__m512)a.part[0], (__m512)b.part[0])}};
#elif defined(__AVX2__)
  F16 r;
  SIMD_EACH r.part[i] = (NativeF)_mm256_max_ps((__m256)a.part[i], (__m256)b.part[i]);
  return r;
#else
  return select(a > b, a, b);
#endif
}
// a < b ? a : b; b where either is not a number
ALWAYS_INLINE F16 min(F16 a, F16 b) {
#if defined(__AVX512F__)
  return {{(NativeF)_mm512_maskz_min_ps(0xffff, (__m512)a.part[0], (__m512)b.part[0])}};
#elif defined(__AVX2__)
  F16 r;
  SIMD_EACH r.part[i] = (NativeF)_mm256_min_ps((__m256)a.part[i], (__m256)b.part[i]);
  return r;
#else
  return select(a < b, a, b);
#endif
}
ALWAYS_INLINE F16 abs(F16 x) {
  return as_float(as_int(x) & broadcast_int(0x7fffffff));
}
// 0, 1, ..., 15
ALWAYS_INLINE I16 lane_numbers() {
  int32_t lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = i;
  I16 r;
  SIMD_EACH r.part[i] = *reinterpret_cast<const NativeI*>(lanes + i * SIMD_WIDTH);
  return r;
}

// to[j * to_step + i] = from[i * from_step + j] for i, j < 4.
ALWAYS_INLINE void transpose_4x4(const float* from, int64_t from_step, float* to, int64_t to_step) {
  typedef float F4 __attribute__((vector_size(16), aligned(4), may_alias));
  F4 rows[4];
  for (int i = 0; i < 4; ++i) rows[i] = *reinterpret_cast<const F4*>(from + i * from_step);
  const F4 a = __builtin_shufflevector(rows[0], rows[1], 0, 4, 1, 5);
  const F4 b = __builtin_shufflevector(rows[2], rows[3], 0, 4, 1, 5);
  const F4 c = __builtin_shufflevector(rows[0], rows[1], 2, 6, 3, 7);
  const F4 d = __builtin_shufflevector(rows[2], rows[3], 2, 6, 3, 7);
  *reinterpret_cast<F4*>(to) = __builtin_shufflevector(a, b, 0, 1, 4, 5);
  *reinterpret_cast<F4*>(to + to_step) = __builtin_shufflevector(a, b, 2, 3, 6, 7);
  *reinterpret_cast<F4*>(to + 2 * to_step) = __builtin_shufflevector(c, d, 0, 1, 4, 5);
  *reinterpret_cast<F4*>(to + 3 * to_step) = __builtin_shufflevector(c, d, 2, 3, 6, 7);
}

// Over the lanes by one fixed tree: lane i with i + 8, then + 4, + 2, + 1.
template <class Op>
ALWAYS_INLINE float reduce(F16 x, Op op) {
#if defined(__AVX2__)
  typedef float F8 __attribute__((vector_size(32)));
  typedef float F4 __attribute__((vector_size(16)));
#if defined(__AVX512F__)
  const F8 low = __builtin_shufflevector(x.part[0], x.part[0], 0, 1, 2, 3, 4, 5, 6, 7);
  const F8 high = __builtin_shufflevector(x.part[0], x.part[0], 8, 9, 10, 11, 12, 13, 14, 15);
#else
  const F8 low = (F8)x.part[0], high = (F8)x.part[1];
#endif
  const F8 eight = op(low, high);
  const F4 four =
      op(__builtin_shufflevector(eight, eight, 0, 1, 2, 3), __builtin_shufflevector(eight, eight, 4, 5, 6, 7));
  const F4 two = op(four, __builtin_shufflevector(four, four, 2, 3, 2, 3));
  return op(two, __builtin_shufflevector(two, two, 1, 1, 1, 1))[0];
#else
  float lanes[kLanes];
  store(lanes, x);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] = op(lanes[i], lanes[i + half]);
  }
  return lanes[0];
#endif
}
ALWAYS_INLINE float reduce_sum(F16 x) {
  return reduce(
      x, [](auto a, auto b) __attribute__((always_inline)) { return a + b; });
}
ALWAYS_INLINE float reduce_max(F16 x) {
  return reduce(
      x, [](auto a, auto b) __attribute__((always_inline)) { return a > b ? a : b; });
}

#undef SIMD_EACH

inline constexpr float kRounding = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer

// y * 2^n, rounded once; y about 1, n whole and from -200 to 200.
ALWAYS_INLINE F16 times_power_of_two(F16 y, F16 n) {
#if defined(__AVX512F__)
  return {{(NativeF)_mm512_maskz_scalef_ps(0xffff, (__m512)y.part[0], (__m512)n.part[0])}};
#else
  // in two factors, since one exponent does not reach that far; the first changes no digit
  I16 n_int = as_int(n + broadcast(kRounding)) - as_int(broadcast(kRounding));
  I16 half = shift_right<1>(n_int);
  y = y * as_float(shift_left<23>(half + broadcast_int(127)));
  return y * as_float(shift_left<23>(n_int - half + broadcast_int(127)));
#endif
}

// e^x, relative error below 2e-7; 0 below -87.3, infinity above 88.7.
ALWAYS_INLINE F16 exp(F16 x) {
  F16 clamped = min(broadcast(88.72283f), max(broadcast(-87.33654f), x));  // what is not a number stays so
  F16 n = fma(clamped, broadcast(1.44269504f), broadcast(kRounding)) - broadcast(kRounding);
  F16 r = fma(n, broadcast(-0.693359375f), clamped);
  r = fma(n, broadcast(2.12194440e-4f), r);
  F16 p = broadcast(1.9875691500e-4f);
  p = fma(p, r, broadcast(1.3981999507e-3f));
  p = fma(p, r, broadcast(8.3334519073e-3f));
  p = fma(p, r, broadcast(4.1665795894e-2f));
  p = fma(p, r, broadcast(1.6666665459e-1f));
  p = fma(p, r, broadcast(5.0000001201e-1f));
  F16 y = fma(p, r * r, r) + broadcast(1.0f);
  y = select(x < broadcast(-87.33654f), zero(), times_power_of_two(y, n));
  return select(x > broadcast(88.72283f), broadcast(__builtin_inff()), y);
}

// Natural logarithm of a positive normal number, relative error below 2e-7 of max(|log x|, 1); -infinity at 0,
// not a number below.
ALWAYS_INLINE F16 log(F16 x) {
  I16 bits = as_int(x);
  I16 exponent = shift_right<23>(bits) - broadcast_int(126);
  F16 mantissa = as_float((bits & broadcast_int(0x007fffff)) | broadcast_int(0x3f000000));  // [0.5, 1)
  I16 small = mantissa < broadcast(0.707106781f);
  F16 e = to_float(exponent + small);  // a true mask is -1
  F16 m = select(small, mantissa + mantissa, mantissa) - broadcast(1.0f);
  F16 z = m * m;
  F16 p = broadcast(7.0376836292e-2f);
  p = fma(p, m, broadcast(-1.1514610310e-1f));
  p = fma(p, m, broadcast(1.1676998740e-1f));
  p = fma(p, m, broadcast(-1.2420140846e-1f));
  p = fma(p, m, broadcast(1.4249322787e-1f));
  p = fma(p, m, broadcast(-1.6668057665e-1f));
  p = fma(p, m, broadcast(2.0000714765e-1f));
  p = fma(p, m, broadcast(-2.4999993993e-1f));
  p = fma(p, m, broadcast(3.3333331174e-1f));
  F16 y = p * m * z;
  y = fma(e, broadcast(-2.12194440e-4f), y);
  y = fma(broadcast(-0.5f), z, y);
  F16 result = fma(e, broadcast(0.693359375f), m + y);
  result = select(x == broadcast(__builtin_inff()), x, result);
  result = select(x == zero(), broadcast(-__builtin_inff()), result);
  return select(x >= zero(), result, broadcast(__builtin_nanf("")));
}

struct SinCos {
  F16 sin, cos;
};
// sin x and cos x, absolute error below 2e-7 for |x| up to 8192 (positions times frequencies).
ALWAYS_INLINE SinCos sincos(F16 x) {
  const F16 magic = broadcast(12582912.0f);
  F16 shifted = fma(x, broadcast(0.636619772f), magic);  // x / (pi / 2)
  F16 n = shifted - magic;
  I16 quadrant = as_int(shifted) - as_int(magic);
  // pi / 2 in three parts (Cody and Waite)
  F16 r = fma(n, broadcast(-1.5703125f), x);
  r = fma(n, broadcast(-4.837512969970703125e-4f), r);
  r = fma(n, broadcast(-7.549789948768648e-8f), r);
  F16 z = r * r;
  F16 s = fma(fma(broadcast(-1.9515295891e-4f), z, broadcast(8.3321608736e-3f)), z, broadcast(-1.6666654611e-1f));
  s = fma(s * z, r, r);
  F16 c = fma(fma(broadcast(2.443315711809948e-5f), z, broadcast(-1.388731625493765e-3f)), z,
              broadcast(4.166664568298827e-2f));
  c = fma(c, z * z, fma(broadcast(-0.5f), z, broadcast(1.0f)));
  I16 one = broadcast_int(1), two = broadcast_int(2);
  I16 swap = (quadrant & one) == one;
  F16 sin = select(swap, c, s), cos = select(swap, s, c);
  I16 sin_sign = shift_left<30>(quadrant & two), cos_sign = shift_left<30>((quadrant + one) & two);
  return {as_float(as_int(sin) + sin_sign), as_float(as_int(cos) + cos_sign)};
}

// One value through the same polynomials.
ALWAYS_INLINE float exp(float x) {
  return reduce_max(exp(broadcast(x)));
}
ALWAYS_INLINE float log(float x) {
  return reduce_max(log(broadcast(x)));
}

}  // namespace SIMD_TARGET
}  // namespace engine::simd
