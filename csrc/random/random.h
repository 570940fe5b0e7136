// Numbers from a random stream: block b of the stream is philox_block(offset + b, key), four 32-bit words
// w0..w3.
//
//   uniform      float in [0, 1):  (w >> 8)·2⁻²⁴                          one word each
//   normal       Box-Muller, from the words of a pair:                    two words for two numbers
//                  u = (w0 + ½)·2⁻³²,  t = (w1 >> 8)·2⁻²⁴,  r = √(−2·ln u)
//                  r·cos(2πt),  r·sin(2πt)
//   integers     low + ⌊W·(high − low)·2⁻⁶⁴⌋ with W = w0 + 2³²·w1          two words each
//   permutation  the stable order that sorts n such 64-bit words W        two words each
//
// A call that needs k words consumes ⌈k/4⌉ blocks; words left over in the last block are dropped, so a stream
// is known by (key, offset) alone. Numbers are written in the order of their words.
//
// CPU: the blocks are scalar (a block is about 30 instructions), the logarithm, sine and cosine of the
// normals run on vectors. uniform, integers and permutation are exact integer work: the same bits everywhere.
#pragma once

#include <cstdint>

#include "simd_path.h"

namespace optix_fast {

template <SimdPath Path>
void random_words_cpu(uint64_t key, uint64_t offset, int64_t n, uint32_t* out);
template <SimdPath Path>
void random_uniform_cpu(uint64_t key, uint64_t offset, int64_t n, float* out);
template <SimdPath Path>
void random_normal_cpu(uint64_t key, uint64_t offset, int64_t n, float* out);
// span = high − low > 0, as an unsigned number; that low < high is checked in Python.
template <SimdPath Path>
void random_integers_cpu(uint64_t key, uint64_t offset, int64_t low, uint64_t span, int64_t n, int64_t* out);
// words, sorted: n elements of scratch each; bucket_ends: 2^bucket_bits(n) elements of scratch.
template <SimdPath Path>
void random_permutation_cpu(uint64_t key, uint64_t offset, int64_t n, uint64_t* words, uint64_t* sorted,
                            int64_t* bucket_ends, int64_t* out);

// The number of buckets a permutation of n is sorted through, about one for every element.
constexpr int bucket_bits(int64_t n) {
  int bits = 1;
  while (bits < 24 && (int64_t(1) << bits) < n) ++bits;
  return bits;
}

}  // namespace optix_fast
