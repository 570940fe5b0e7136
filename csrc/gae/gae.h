// Generalised advantage estimation (Schulman et al. 2016) with the two ways an episode can end.
//
//   V'_t = final_values_t            where truncated_t
//          values_{t+1}              elsewhere (last row: last_value)
//   δ_t  = r_t + γ·V'_t·(1 − terminated_t) − V_t
//   A_t  = δ_t + γλ·(1 − (terminated_t ∨ truncated_t))·A_{t+1},   A_T = 0
//   R_t  = A_t + V_t
//
// The factors (1 − flag) select rather than multiply: a value behind the end of an episode is not read, so a
// NaN there stays there.
//
// Memory: every [T, N] array is row-major, one row per time step, the N environments of a step side by side.
// A one-dimensional [T] input is N = 1. Flags are bytes, zero is false. last_value has one element per
// environment (stride 1), or one for all (stride 0), or is null and last_scalar holds it.
//
// CPU: environments are independent and adjacent in memory, so a tile of columns goes backwards through time
// with A and V_{t+1} in registers: every array is read once or written once. Fewer environments than a vector
// has lanes, and a divisor of them: several rows lie in one vector, and a scan inside it takes the place of
// as many dependent steps. CUDA: tiles of 32 rows and 32 environments, scanned over time, see gae_cuda.cu.
// Order of the sums: fixed by T and N and the instruction set, so that the same call gives the same bits.
#pragma once

#include <cstdint>

#include "simd_path.h"

namespace optix_fast {

template <typename T>
struct GaeArgs {
  int64_t steps;              // T
  int64_t envs;               // N
  const T* rewards;           // [T, N]
  const T* values;            // [T, N]
  const T* last_value;        // [N], or one element, or null
  int64_t last_value_stride;  // 1 or 0
  T last_scalar;              // used when last_value is null
  const uint8_t* terminated;  // [T, N]
  const uint8_t* truncated;   // [T, N], or null: never
  const T* final_values;      // [T, N], read where truncated; null exactly when truncated is
  double gamma;
  double gae_lambda;
  T* advantages;  // [T, N], written
  T* returns;     // [T, N], written
};

template <SimdPath Path, typename T>
void gae_cpu(const GaeArgs<T>& args);

// Enqueues on `stream` of device `device`; returns null, or CUDA's words for what went wrong.
template <typename T>
const char* gae_cuda(const GaeArgs<T>& args, int device, void* stream);

}  // namespace optix_fast
