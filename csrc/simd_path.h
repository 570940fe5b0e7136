// Which instruction set the CPU kernels use: compiled for several, chosen at run time.
//
// A kernel is a function template over SimdPath, defined and instantiated in its <op>_cpu.cpp, which CMake
// compiles once per set with OPTIX_FAST_COMPILED_PATH naming it. The path is thus part of every symbol's
// name, and code compiled for AVX-512 can never be what the linker picks for the portable path. For the same
// reason the kernel files use no function from the C++ library: an inline function there has one name for all
// sets.
#pragma once

#include <cstdint>
#include <type_traits>

namespace optix_fast {

enum class SimdPath : uint8_t { portable, avx2, avx512 };

// The path in use: the best one that was compiled and that this processor has, unless select_simd chose.
SimdPath simd_path();
const char* simd_path_name(SimdPath path);
bool simd_path_compiled(SimdPath path);

// Chooses by name; throws std::invalid_argument for a name that is unknown, not compiled or not supported.
void select_simd(const char* name);

// Calls work(std::integral_constant<SimdPath, P>) for the path P in use:
//   dispatch_simd([&](auto path) { gae_cpu<path>(args); });
template <typename Work>
decltype(auto) dispatch_simd(Work&& work) {
  switch (simd_path()) {
#ifdef OPTIX_FAST_HAS_AVX512
    case SimdPath::avx512:
      return work(std::integral_constant<SimdPath, SimdPath::avx512>());
#endif
#ifdef OPTIX_FAST_HAS_AVX2
    case SimdPath::avx2:
      return work(std::integral_constant<SimdPath, SimdPath::avx2>());
#endif
    default:
      return work(std::integral_constant<SimdPath, SimdPath::portable>());
  }
}

}  // namespace optix_fast
