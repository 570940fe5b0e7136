// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): 128 bits of counter and
// 64 bits of key make 128 random bits, in ten rounds, without any state.
//
// One block of a stream is philox_block(offset, key): the 64-bit offset fills the low half of the counter,
// the high half stays zero.
#pragma once

#include <cstdint>

// The same functions serve the CUDA kernels.
#ifdef __CUDACC__
#define OPTIX_FAST_HOST_DEVICE __host__ __device__
#else
#define OPTIX_FAST_HOST_DEVICE
#endif

namespace optix_fast {
namespace {

struct PhiloxBlock {
  uint32_t word[4];
};

OPTIX_FAST_HOST_DEVICE inline PhiloxBlock philox_rounds(PhiloxBlock counter, uint32_t key0, uint32_t key1) {
  constexpr uint64_t multiplier0 = 0xD2511F53u;
  constexpr uint64_t multiplier1 = 0xCD9E8D57u;
  constexpr uint32_t weyl0 = 0x9E3779B9u;
  constexpr uint32_t weyl1 = 0xBB67AE85u;
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = multiplier0 * counter.word[0];
    const uint64_t product1 = multiplier1 * counter.word[2];
    counter = {
        {static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(product1),
         static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(product0)}};
    key0 += weyl0;
    key1 += weyl1;
  }
  return counter;
}

OPTIX_FAST_HOST_DEVICE inline PhiloxBlock philox_block(uint64_t offset, uint64_t key) {
  const PhiloxBlock counter = {{static_cast<uint32_t>(offset), static_cast<uint32_t>(offset >> 32), 0, 0}};
  return philox_rounds(counter, static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32));
}

}  // namespace
}  // namespace optix_fast
