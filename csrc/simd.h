// Vector types and loads for the CPU kernels, on GCC's vector extension: the same source becomes AVX-512,
// AVX2, SSE2 or NEON code, depending on the flags it is compiled with.
//
// Everything here sits in an unnamed namespace on purpose: each kernel file gets its own copies, compiled for
// its own instruction set (see simd_path.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "simd_path.h"

#ifndef OPTIX_FAST_COMPILED_PATH
#error "simd.h belongs to the kernel files, which CMake compiles once per instruction set"
#endif

namespace optix_fast {
namespace {

constexpr SimdPath kPath = SimdPath::OPTIX_FAST_COMPILED_PATH;
constexpr size_t kVectorBytes = kPath == SimdPath::avx512 ? 64 : kPath == SimdPath::avx2 ? 32 : 16;

// The signed integer as wide as T, which the masks and the bit tricks are made of.
template <typename T>
struct IntOf;
template <>
struct IntOf<float> {
  using type = int32_t;
};
template <>
struct IntOf<double> {
  using type = int64_t;
};

// Bytes to lanes of Int. GCC 12 takes the general form apart into single bytes, which would cost more than
// the rest of a kernel that reads flags; one instruction does it.
template <typename Mask, typename Int>
inline Mask widen_bytes(const uint8_t* p) {
#ifdef __AVX512F__
  if constexpr (sizeof(Mask) == 64 && sizeof(Int) == 4) {
    return reinterpret_cast<Mask>(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  } else if constexpr (sizeof(Mask) == 64) {
    return reinterpret_cast<Mask>(_mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
#endif
#ifdef __AVX2__
  if constexpr (sizeof(Mask) == 32 && sizeof(Int) == 4) {
    return reinterpret_cast<Mask>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
#endif
  constexpr size_t lanes = sizeof(Mask) / sizeof(Int);
  Int lane[lanes];
  for (size_t i = 0; i < lanes; ++i) lane[i] = p[i];
  Mask mask;
  __builtin_memcpy(&mask, lane, sizeof mask);
  return mask;
}

// A vector of `Bytes` bytes of T, and its masks.
template <typename T, size_t Bytes = kVectorBytes>
struct Simd {
  using Scalar = T;
  using Int = typename IntOf<T>::type;
  static constexpr size_t lanes = Bytes / sizeof(T);
  typedef T Vec __attribute__((vector_size(Bytes)));
  typedef Int Mask __attribute__((vector_size(Bytes)));  // all ones where true

  static Vec load(const T* p) {
    Vec v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(T* p, Vec v) { __builtin_memcpy(p, &v, sizeof v); }
  // x − 0 is x for every x, −0 and NaN too, and no instruction; x + 0, which turns −0 into 0, costs one.
  static Vec broadcast(T x) { return x - Vec{}; }
  // The first n lanes from memory, the others zero; and the first n lanes to memory.
  static Vec load_first(const T* p, size_t n) {
    if (n >= lanes) return load(p);
    T padded[lanes] = {};
    for (size_t i = 0; i < n; ++i) padded[i] = p[i];
    return load(padded);
  }
  static void store_first(T* p, Vec v, size_t n) {
    if (n >= lanes) return store(p, v);
    for (size_t i = 0; i < n; ++i) p[i] = v[i];
  }
  // True where the flag byte is not zero.
  static Mask load_flags(const uint8_t* p) { return widen_bytes<Mask, Int>(p) != 0; }
  static Vec select(Mask mask, Vec a, Vec b) { return mask ? a : b; }
  // Lane i takes lane i + Count of v, the last Count lanes come from `fill`.
  template <size_t Count, typename V>
  static V shift_down(V v, V fill) {
    return shuffle<Count, 2 * lanes>(v, fill, std::make_index_sequence<lanes>());
  }
  // Lane i takes lane i mod Period.
  template <size_t Period>
  static Vec repeat(Vec v) {
    return shuffle<0, Period>(v, v, std::make_index_sequence<lanes>());
  }
  // Rows to columns: lane j of vector i changes places with lane i of vector j.
  static void transpose(Vec (&rows)[lanes]) { transpose_from<1>(rows, std::make_index_sequence<lanes>()); }
  // Elementwise; where the comparison is false, b: a NaN in b stays.
  static Vec min(Vec a, Vec b) { return a < b ? a : b; }
  static Vec max(Vec a, Vec b) { return a > b ? a : b; }
  static Mask bits(Vec v) {
    Mask m;
    __builtin_memcpy(&m, &v, sizeof m);
    return m;
  }
  static Vec from_bits(Mask m) {
    Vec v;
    __builtin_memcpy(&v, &m, sizeof v);
    return v;
  }

 private:
  // Lane i takes lane (i + Offset) mod Period of a ‖ b.
  template <size_t Offset, size_t Period, typename V, size_t... I>
  static V shuffle(V a, V b, std::index_sequence<I...>) {
#ifdef __clang__
    return __builtin_shufflevector(a, b, ((I + Offset) % Period)...);
#else
    return __builtin_shuffle(a, b, Mask{static_cast<Int>((I + Offset) % Period)...});
#endif
  }
  // Exchanges the bit `Step` of the row with that of the lane, then the higher bits.
  template <size_t Step, size_t... I>
  static void transpose_from(Vec (&rows)[lanes], std::index_sequence<I...> indices) {
    if constexpr (Step < lanes) {
#pragma GCC unroll 16
      for (size_t i = 0; i < lanes; ++i) {
        if (i & Step) continue;
        const Vec a = rows[i], b = rows[i + Step];
#ifdef __clang__
        rows[i] = __builtin_shufflevector(a, b, (I & Step ? I - Step + lanes : I)...);
        rows[i + Step] = __builtin_shufflevector(a, b, (I & Step ? I + lanes : I + Step)...);
#else
        rows[i] = __builtin_shuffle(a, b, Mask{static_cast<Int>(I & Step ? I - Step + lanes : I)...});
        rows[i + Step] = __builtin_shuffle(a, b, Mask{static_cast<Int>(I & Step ? I + lanes : I + Step)...});
#endif
      }
      transpose_from<2 * Step>(rows, indices);
    }
  }
};

// One lane with the same interface, for the columns that fill no vector.
template <typename T>
struct Single {
  using Scalar = T;
  using Vec = T;
  using Mask = bool;
  static constexpr size_t lanes = 1;
  static Vec load(const T* p) { return *p; }
  static void store(T* p, Vec v) { *p = v; }
  static Vec broadcast(T x) { return x; }
  static Mask load_flags(const uint8_t* p) { return *p != 0; }
  static Vec select(Mask mask, Vec a, Vec b) { return mask ? a : b; }
};

}  // namespace
}  // namespace optix_fast
