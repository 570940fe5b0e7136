#include "random.h"

#include "philox.h"
#include "simd_math.h"

namespace optix_fast {
namespace {

// Calls consume(index, word) for the first n words of the stream.
template <typename Consume>
void each_word(uint64_t key, uint64_t offset, int64_t n, Consume consume) {
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    const PhiloxBlock block = philox_block(offset++, key);
    for (int k = 0; k < 4; ++k) consume(i + k, block.word[k]);
  }
  if (i < n) {
    const PhiloxBlock block = philox_block(offset, key);
    for (int k = 0; i + k < n; ++k) consume(i + k, block.word[k]);
  }
}

// Calls consume(index, word) for the first n 64-bit words of the stream.
template <typename Consume>
void each_wide_word(uint64_t key, uint64_t offset, int64_t n, Consume consume) {
  for (int64_t i = 0; i < n; i += 2) {
    const PhiloxBlock block = philox_block(offset++, key);
    consume(i, block.word[0] | uint64_t(block.word[1]) << 32);
    if (i + 1 < n) consume(i + 1, block.word[2] | uint64_t(block.word[3]) << 32);
  }
}

}  // namespace

template <SimdPath Path>
void random_words_cpu(uint64_t key, uint64_t offset, int64_t n, uint32_t* out) {
  each_word(key, offset, n, [=](int64_t i, uint32_t word) { out[i] = word; });
}

template <SimdPath Path>
void random_uniform_cpu(uint64_t key, uint64_t offset, int64_t n, float* out) {
  each_word(key, offset, n,
            [=](int64_t i, uint32_t word) { out[i] = static_cast<float>(word >> 8) * 0x1p-24f; });
}

template <SimdPath Path>
void random_normal_cpu(uint64_t key, uint64_t offset, int64_t n, float* out) {
  using S = Simd<float>;
  constexpr int64_t pairs_at_once = 4 * S::lanes;
  float radius_from[pairs_at_once] = {}, turn[pairs_at_once] = {};
  for (int64_t done = 0; done < n; done += 2 * pairs_at_once) {
    const int64_t here = n - done < 2 * pairs_at_once ? n - done : 2 * pairs_at_once;
    each_word(key, offset + done / 4, here + here % 2, [&](int64_t i, uint32_t word) {
      if (i % 2 == 0) {
        radius_from[i / 2] = static_cast<float>(word) * 0x1p-32f + 0x1p-33f;
      } else {
        turn[i / 2] = static_cast<float>(word >> 8) * 0x1p-24f;
      }
    });
    for (int64_t pair = 0; 2 * pair < here; pair += S::lanes) {
      const S::Vec square = -2.0f * log<S>(S::load(radius_from + pair));
      S::Vec sine, cosine;
      sincos_turn<S>(S::load(turn + pair), sine, cosine);
      for (int64_t i = 0; i < int64_t(S::lanes) && 2 * (pair + i) < here; ++i) {
        const float radius = __builtin_sqrtf(square[i]);
        const int64_t at = 2 * (pair + i);
        out[done + at] = radius * cosine[i];
        if (at + 1 < here) out[done + at + 1] = radius * sine[i];
      }
    }
  }
}

template <SimdPath Path>
void random_integers_cpu(uint64_t key, uint64_t offset, int64_t low, uint64_t span, int64_t n, int64_t* out) {
  each_wide_word(key, offset, n, [=](int64_t i, uint64_t word) {
    __extension__ typedef unsigned __int128 Wide;
    const uint64_t scaled = static_cast<uint64_t>(static_cast<Wide>(word) * span >> 64);
    out[i] = static_cast<int64_t>(static_cast<uint64_t>(low) + scaled);
  });
}

// The words are uniform, so their leading bits spread them evenly over buckets. Filling the buckets in index
// order and then sorting by insertion, which moves a word only past greater ones, keeps equal words in order.
template <SimdPath Path>
void random_permutation_cpu(uint64_t key, uint64_t offset, int64_t n, uint64_t* words, uint64_t* sorted,
                            int64_t* bucket_ends, int64_t* out) {
  const int shift = 64 - bucket_bits(n);
  const int64_t buckets = int64_t(1) << bucket_bits(n);
  for (int64_t b = 0; b < buckets; ++b) bucket_ends[b] = 0;
  each_wide_word(key, offset, n, [=](int64_t i, uint64_t word) {
    words[i] = word;
    ++bucket_ends[word >> shift];
  });
  int64_t start = 0;
  for (int64_t b = 0; b < buckets; ++b) {
    const int64_t count = bucket_ends[b];
    bucket_ends[b] = start;
    start += count;
  }
  for (int64_t i = 0; i < n; ++i) {
    const int64_t at = bucket_ends[words[i] >> shift]++;
    sorted[at] = words[i];
    out[at] = i;
  }
  for (int64_t i = 1; i < n; ++i) {
    const uint64_t word = sorted[i];
    const int64_t index = out[i];
    int64_t j = i;
    for (; j > 0 && sorted[j - 1] > word; --j) {
      sorted[j] = sorted[j - 1];
      out[j] = out[j - 1];
    }
    sorted[j] = word;
    out[j] = index;
  }
}

template void random_words_cpu<kPath>(uint64_t, uint64_t, int64_t, uint32_t*);
template void random_uniform_cpu<kPath>(uint64_t, uint64_t, int64_t, float*);
template void random_normal_cpu<kPath>(uint64_t, uint64_t, int64_t, float*);
template void random_integers_cpu<kPath>(uint64_t, uint64_t, int64_t, uint64_t, int64_t, int64_t*);
template void random_permutation_cpu<kPath>(uint64_t, uint64_t, int64_t, uint64_t*, uint64_t*, int64_t*,
                                            int64_t*);

}  // namespace optix_fast
