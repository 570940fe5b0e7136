// 53-bit random fractions, several Philox blocks side by side: the numbers of random_integers over [0, 2⁵³).
//
// A round multiplies the low halves of 64-bit lanes and leaves whatever it likes in the high halves of words
// 0 and 2, which nothing reads; so a round of 4 or 8 blocks is ten vector instructions.
#pragma once

#include "random/philox.h"
#include "simd.h"

namespace optix_fast {
namespace {

#ifdef __AVX2__

using Words = uint64_t __attribute__((vector_size(kVectorBytes)));
constexpr int kBlocksAtOnce = kVectorBytes / sizeof(uint64_t);

Words multiply_low(Words a, uint64_t b) {
  const Words factor = Words{} + b;
#ifdef __AVX512F__
  return reinterpret_cast<Words>(
      _mm512_mul_epu32(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(factor)));
#else
  return reinterpret_cast<Words>(
      _mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(factor)));
#endif
}

// Two fractions from each block, in the order of their words.
void fractions_of_blocks(uint64_t key, uint64_t offset, int64_t* bits) {
  Words w0, w1, w2 = {}, w3 = {};
  for (int i = 0; i < kBlocksAtOnce; ++i) w0[i] = offset + uint64_t(i);
  w1 = w0 >> 32;
  uint32_t key0 = uint32_t(key), key1 = uint32_t(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const Words product0 = multiply_low(w0, 0xD2511F53u);
    const Words product1 = multiply_low(w2, 0xCD9E8D57u);
    w0 = (product1 >> 32) ^ w1 ^ key0;
    w1 = product1;
    w2 = (product0 >> 32) ^ w3 ^ key1;
    w3 = product0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  const Words low_half = Words{} + 0xffffffffu;
  const Words first = ((w0 & low_half) | w1 << 32) >> 11;
  const Words second = ((w2 & low_half) | w3 << 32) >> 11;
  for (int i = 0; i < kBlocksAtOnce; ++i) {
    bits[2 * i] = int64_t(first[i]);
    bits[2 * i + 1] = int64_t(second[i]);
  }
}

#else

constexpr int kBlocksAtOnce = 1;

void fractions_of_blocks(uint64_t key, uint64_t offset, int64_t* bits) {
  const PhiloxBlock block = philox_block(offset, key);
  bits[0] = int64_t((block.word[0] | uint64_t(block.word[1]) << 32) >> 11);
  bits[1] = int64_t((block.word[2] | uint64_t(block.word[3]) << 32) >> 11);
}

#endif

}  // namespace
}  // namespace optix_fast
