#include "simd_path.h"

#include <stdexcept>

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

SimdPath best_path() {
  SimdPath best = SimdPath::portable;
  for (SimdPath path : compiled_simd_paths()) {
    if (processor_has(path)) best = path;
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

std::vector<SimdPath> compiled_simd_paths() {
  return {
      SimdPath::portable,
#ifdef OPTIX_FAST_HAS_AVX2
      SimdPath::avx2,
#endif
#ifdef OPTIX_FAST_HAS_AVX512
      SimdPath::avx512,
#endif
  };
}

SimdPath simd_path() { return current_path(); }

void select_simd(const std::string& name) {
  for (SimdPath path : {SimdPath::portable, SimdPath::avx2, SimdPath::avx512}) {
    if (name != simd_path_name(path)) continue;
    bool compiled = false;
    for (SimdPath other : compiled_simd_paths()) compiled = compiled || other == path;
    if (!compiled)
      throw std::invalid_argument("OPTIX_FAST_SIMD=" + name + " was not compiled into this build");
    if (!processor_has(path))
      throw std::invalid_argument("OPTIX_FAST_SIMD=" + name + ": this processor lacks it");
    current_path() = path;
    return;
  }
  throw std::invalid_argument("OPTIX_FAST_SIMD must be avx512, avx2 or portable, got '" + name + "'");
}

}  // namespace optix_fast
