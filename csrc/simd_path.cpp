#include "simd_path.h"

#include <stdexcept>
#include <string>

namespace optix_fast {
namespace {

bool processor_has(SimdPath path) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  if (path == SimdPath::avx2) return v3;
  if (path == SimdPath::avx512) {
    return v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
  }
#endif
  return path == SimdPath::portable;
}

constexpr SimdPath kPaths[] = {SimdPath::portable, SimdPath::avx2, SimdPath::avx512};  // from plain to best

SimdPath best_path() {
  SimdPath best = SimdPath::portable;
  for (SimdPath path : kPaths) {
    if (simd_path_compiled(path) && processor_has(path)) best = path;
  }
  return best;
}

SimdPath& current_path() {
  static SimdPath path = best_path();
  return path;
}

}  // namespace

const char* simd_path_name(SimdPath path) {
  switch (path) {
    case SimdPath::avx512:
      return "avx512";
    case SimdPath::avx2:
      return "avx2";
    default:
      return "portable";
  }
}

bool simd_path_compiled(SimdPath path) {
#ifdef OPTIX_FAST_HAS_AVX2
  if (path == SimdPath::avx2) return true;
#endif
#ifdef OPTIX_FAST_HAS_AVX512
  if (path == SimdPath::avx512) return true;
#endif
  return path == SimdPath::portable;
}

SimdPath simd_path() { return current_path(); }

void select_simd(const char* name) {
  const std::string wanted = name;
  for (SimdPath path : kPaths) {
    if (wanted != simd_path_name(path)) continue;
    if (!simd_path_compiled(path)) {
      throw std::invalid_argument("OPTIX_FAST_SIMD=" + wanted + " was not compiled into this build");
    }
    if (!processor_has(path)) {
      throw std::invalid_argument("OPTIX_FAST_SIMD=" + wanted + ": this processor lacks it");
    }
    current_path() = path;
    return;
  }
  throw std::invalid_argument("OPTIX_FAST_SIMD must be avx512, avx2 or portable, got '" + wanted + "'");
}

}  // namespace optix_fast
