// A diagonal Gaussian squashed by tanh: its log-probability, and samples that carry their own.
//
//   a = tanh u,   u = μ + σ·ε,   σ = e^s,   z = (u − μ)/σ
//   log π(a) = Σ_j [ log N(u_j; μ_j, σ_j) − log(1 − tanh²u_j) ]
//            = Σ_j [ −½z² − s − ½·ln 2π − 2·(ln 2 − u − softplus(−2u)) ]
//
// The last term is even in u and computed as 2·(ln 2 − |u| − ln(1 + t)), t = e^(−2|u|) ≤ 1: no cancellation,
// and finite as far as u is. From an action, u = artanh a with |a| limited to 1 − 1e-6 (in T).
//
// Derivatives, formed in the same pass (log_prob):
//   ∂/∂μ = z/σ,   ∂/∂s = z² − 1,   ∂/∂u = 2a − z/σ,   ∂/∂a = (∂/∂u)/(1 − a²), zero where a was limited
// and of a sample, whose ε stays fixed, from  spread = σ·ε  and  slope = 1 − a² = 4t/(1 + t)²:
//   ∂u/∂μ = 1,  ∂u/∂s = spread,  ∂a = slope·∂u,  ∂log π/∂μ = 2a,  ∂log π/∂s = 2a·spread − 1
//
// Memory: [B, A] arrays are row-major, one row per sample; s is [B, A], or [A] for all samples. The noise of
// a sample is that of random_normal (csrc/random/random.h) for B·A numbers from (key, offset): element i
// takes number i, whatever the machine. It is made in float and widened for double.
//
// CPU: the arrays are flat, a vector takes adjacent elements whatever A is; the terms of a block stay in L1
// until they are added to their rows. CUDA: a block of threads takes as many whole rows as its shared memory
// holds, reads and writes them flat, and then adds up one row per thread; a sampling thread takes the four
// numbers of one Philox block. Order of the sums: along A from first to last, in T, on both, whatever the
// tile or the thread.
#pragma once

#include <cstdint>

#include "simd_path.h"

namespace optix_fast {

constexpr double kActionLimit = 1.0 - 1e-6;

// The distributions of B samples.
template <typename T>
struct TanhNormalParams {
  int64_t batch;     // B
  int64_t width;     // A
  const T* mean;     // [B, A]
  const T* log_std;  // [B, A], or [A] when shared
  bool shared_log_std;
  T* scratch;  // CPU, when shared: tanh_normal_scratch(A) elements
};

template <typename T>
struct TanhNormalLogProbArgs {
  TanhNormalParams<T> params;
  const T* value;  // [B, A]: a when squashed, else u
  bool squashed;
  T* log_prob;  // [B], written
  T* by_mean;   // [B, A] each, written; null: not wanted
  T* by_log_std;
  T* by_value;
};

template <typename T>
struct TanhNormalSampleArgs {
  TanhNormalParams<T> params;
  uint64_t key, offset;
  T* action;    // [B, A], written
  T* log_prob;  // [B], written
  T* pre_tanh;  // [B, A], written
  T* slope;     // [B, A] each, written; null: not wanted
  T* spread;
};

constexpr int64_t tanh_normal_scratch(int64_t width) { return 2 * (width + 16); }

template <SimdPath Path, typename T>
void tanh_normal_log_prob_cpu(const TanhNormalLogProbArgs<T>& args);
template <SimdPath Path, typename T>
void tanh_normal_sample_cpu(const TanhNormalSampleArgs<T>& args);

// out[k][b, a] = by_row[b]·gradients[k][b, a] for k < count: the backward pass of log_prob. On CUDA torch's
// own product does it.
template <SimdPath Path, typename T>
void tanh_normal_scale_cpu(int64_t batch, int64_t width, const T* by_row, int64_t count,
                           const T* const* gradients, T* const* out);

// Enqueue on `stream` of device `device`; return null, or CUDA's words for what went wrong.
template <typename T>
const char* tanh_normal_log_prob_cuda(const TanhNormalLogProbArgs<T>& args, int device, void* stream);
template <typename T>
const char* tanh_normal_sample_cuda(const TanhNormalSampleArgs<T>& args, int device, void* stream);

}  // namespace optix_fast
