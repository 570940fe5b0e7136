// What the dense kernels need beyond simd.h: transposing a square of vectors, summing many vectors at once,
// the ends of rows that fill no vector, square roots.
#pragma once

#include <utility>

#include "simd.h"

namespace optix_fast {
namespace {

#ifdef __AVX512F__
// The unmasked intrinsics of GCC 12 warn about an undefined operand; with this mask the compiler emits the
// same.
constexpr __mmask16 kAllLanes = 0xFFFF;
#endif

// Lane j is a[I_j], or b[I_j − lanes] from `lanes` on.
template <typename S, int... I>
typename S::Vec shuffle(typename S::Vec a, typename S::Vec b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, I...);
#else
  return __builtin_shuffle(a, b, typename S::Mask{I...});
#endif
}

// Of two vectors, the lanes whose number has bit `Bit` clear, beside each other; and those that have it set.
//   low:  a0 b0 a2 b2 …   high: a1 b1 a3 b3 …     (Bit = 1)
template <typename S, int Bit, int... J>
typename S::Vec low_lanes(typename S::Vec a, typename S::Vec b, std::integer_sequence<int, J...>) {
  return shuffle<S, (J & Bit ? int(S::lanes) + J - Bit : J)...>(a, b);
}
template <typename S, int Bit, int... J>
typename S::Vec high_lanes(typename S::Vec a, typename S::Vec b, std::integer_sequence<int, J...>) {
  return shuffle<S, (J & Bit ? int(S::lanes) + J : J + Bit)...>(a, b);
}

template <typename S, int Bit>
inline void transpose_stage(typename S::Vec* v) {
  constexpr std::make_integer_sequence<int, int(S::lanes)> all{};
#pragma GCC unroll 16
  for (int i = 0; i < int(S::lanes); ++i) {
    if (i & Bit) continue;
    const typename S::Vec low = low_lanes<S, Bit>(v[i], v[i + Bit], all);
    v[i + Bit] = high_lanes<S, Bit>(v[i], v[i + Bit], all);
    v[i] = low;
  }
  if constexpr (Bit > 1) transpose_stage<S, Bit / 2>(v);
}

// Rows become columns, in log2(lanes) stages: each swaps one bit of the row number with the same bit of the
// lane.
template <typename S>
inline void transpose_square(typename S::Vec* v) {
  transpose_stage<S, int(S::lanes) / 2>(v);
}

template <typename S, int Bit>
inline typename S::Vec sum_stage(typename S::Vec* v) {
  constexpr std::make_integer_sequence<int, int(S::lanes)> all{};
#pragma GCC unroll 16
  for (int i = 0; i < Bit; ++i) {
    v[i] = low_lanes<S, Bit>(v[i], v[i + Bit], all) + high_lanes<S, Bit>(v[i], v[i + Bit], all);
  }
  if constexpr (Bit > 1) return sum_stage<S, Bit / 2>(v);
  return v[0];
}

// Lane j: the sum of all lanes of v[j]. The vectors are used up.
template <typename S>
inline typename S::Vec sums_of(typename S::Vec* v) {
  return sum_stage<S, int(S::lanes) / 2>(v);
}

// The first n < lanes elements, the others zero, without touching what lies behind them.
template <typename S>
inline typename S::Vec load_part(const typename S::Scalar* p, size_t n) {
#ifdef __AVX512F__
  if constexpr (sizeof(typename S::Vec) == 64 && sizeof(typename S::Scalar) == 4) {
    return (typename S::Vec)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
  } else if constexpr (sizeof(typename S::Vec) == 64) {
    return (typename S::Vec)_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1), p);
  }
#endif
  typename S::Scalar lane[S::lanes] = {};
  for (size_t i = 0; i < n; ++i) lane[i] = p[i];
  return S::load(lane);
}

// a/b to about a unit in the last place, for b between 1e-30 and 1e30: where there is a fast estimate of 1/b,
// one Newton step from it costs a third of a division.
template <typename S>
inline typename S::Vec divide(typename S::Vec a, typename S::Vec b) {
#ifdef __AVX512F__
  if constexpr (sizeof(typename S::Vec) == 64 && sizeof(typename S::Scalar) == 4) {
    const auto estimate = (typename S::Vec)_mm512_maskz_rcp14_ps(kAllLanes, (__m512)b);
    return a * (estimate + estimate * (S::broadcast(1) - b * estimate));
  }
#endif
  return a / b;
}

// x between −bound and bound; NaN passes.
template <typename S>
inline typename S::Vec limit(typename S::Vec x, typename S::Scalar bound) {
  const auto high = S::broadcast(bound);
#ifdef __AVX512F__
  // These return their second operand where the comparison fails; the compiler's select takes two steps.
  if constexpr (sizeof(typename S::Vec) == 64 && sizeof(typename S::Scalar) == 4) {
    return (typename S::Vec)_mm512_maskz_max_ps(kAllLanes, (__m512)-high,
                                                _mm512_maskz_min_ps(kAllLanes, (__m512)high, (__m512)x));
  }
#endif
  x = S::select(x > high, high, x);
  return S::select(x < -high, -high, x);
}

template <typename S>
inline typename S::Vec square_root(typename S::Vec v) {
#ifdef __AVX512F__
  if constexpr (sizeof(typename S::Vec) == 64 && sizeof(typename S::Scalar) == 4) {
    return (typename S::Vec)_mm512_maskz_sqrt_ps(kAllLanes, (__m512)v);
  }
#endif
#ifdef __AVX2__
  if constexpr (sizeof(typename S::Vec) == 32 && sizeof(typename S::Scalar) == 4) {
    return (typename S::Vec)_mm256_sqrt_ps((__m256)v);
  }
#endif
  for (size_t i = 0; i < S::lanes; ++i) v[i] = __builtin_sqrt(v[i]);
  return v;
}

}  // namespace
}  // namespace optix_fast
