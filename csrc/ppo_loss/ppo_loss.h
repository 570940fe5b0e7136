// The clipped surrogate loss of PPO (Schulman et al. 2017), its gradients and its statistics, in one pass.
//
//   ratio_i   = exp(log π(a_i) − old_log_prob_i)
//   policy    = −mean min(ratio·A, clip(ratio, 1 − ε, 1 + ε)·A)
//   value     = mean (V − R)²                              no value clipping
//               mean max((V − R)², (V_c − R)²)             "max"
//               mean (V_c − R)²                            "clipped",  V_c = V_old + clip(V − V_old, −c, c)
//   loss      = policy + vf_coef·value + Σ_k (m_k·max(0, floor_k − H_k) − entropy_coef_k·H_k)
//   approx_kl = mean ((ratio − 1) − log ratio),  clip_fraction = mean [|ratio − 1| > ε]
//
// H_k is the batch mean of the entropy of component k of the action (Categorical and Normal have one
// component). With normalize_advantages, A = (A − mean) / (std + 1e-8), std unbiased, for a batch of two or
// more.
//
//   categorical     params [B, K] logits, actions int64 [B]; a masked logit has probability and gradient zero
//   multi_discrete  params [B, ΣK_c], the logits of one component after the other, actions int64 [B, C];
//                   log-probability sums over the components
//   normal          params [B, 2A] = mean ‖ log_std, actions [B, A]; log-probability and entropy sum over A
//   hybrid          params [B, ΣK_c + 2A], multi_discrete's then normal's; actions [B, C + A] of
//                   params' type, the discrete ones as whole numbers; the Gaussian is component C
//
// Memory: row-major, one row per sample; per-sample arrays are [B]. stats: policy, value, entropy (the sum of
// the H_k), approx_kl, clip_fraction, H_0, H_1, ... as float.
//
// CPU: a block of as many samples as a vector has lanes is transposed into scratch, so that every step runs
// over the samples, whatever K or A is. Forward and gradient of a block follow each other while it is in
// cache. A floor on the entropy makes every gradient depend on the batch's mean entropy; only then a first
// pass computes it. Order of the sums: lane by lane over blocks, lanes from first to last, in double; the
// same bits at every call. CUDA: one thread per sample, see ppo_loss_cuda.cu.
#pragma once

#include <cstddef>
#include <cstdint>

#include "policy_kind.h"
#include "simd_path.h"

namespace optix_fast {

// The names are Python's.
enum class ValueClip : uint8_t { none, max, clipped };
constexpr const char* kValueClipNames[] = {"none", "max", "clipped"};

constexpr int kPpoStatistics = 5;  // before the entropies of the components

template <typename T>
struct PpoLossArgs {
  PolicyKind kind;
  int64_t batch;                    // B, at least 1
  int64_t actions_width;            // K of a categorical, A of a normal or hybrid
  const int64_t* nvec;              // [C], K of each component of a multi_discrete or hybrid
  int64_t n_discrete;               // C of a multi_discrete or hybrid
  const T* params;                  // [B, D]
  const int64_t* discrete_actions;  // [B] or [B, C]; not of a hybrid
  const T* continuous_actions;      // [B, A], or [B, C + A] of a hybrid
  const uint8_t* action_mask;       // [B, K] or [B, ΣK_c], or null: all allowed
  const T* old_log_probs;           // [B]
  const T* advantages;              // [B]
  const T* values;                  // [B]
  const T* returns;                 // [B]
  const T* old_values;              // [B], read unless value_clip_mode is none
  double clip_ratio;                // ε
  ValueClip value_clip_mode;
  double value_clip;  // c
  double vf_coef;
  const double* entropy_coef;        // per component
  const double* entropy_floor;       // per component, or null: none
  const double* entropy_floor_coef;  // m per component
  bool normalize_advantages;
  T* scratch;      // ppo_loss_scratch_bytes
  T* loss;         // one element, written
  float* stats;    // [kPpoStatistics + components], written
  T* grad_params;  // like params, written; null: not wanted
  T* grad_values;  // [B], written; null: not wanted
};

// Data that no loss can be computed from, found on the way.
struct PpoLossFault {
  enum Kind : uint8_t { none, action_out_of_range, action_masked, row_masked } kind = none;
  int64_t row = -1;
  int64_t component = 0;
  double action = 0.0;
};

// The number of categorical variables, and the width D of params.
template <typename T>
int64_t ppo_loss_discrete(const PpoLossArgs<T>& args) {
  return args.kind == PolicyKind::categorical ? 1 : args.kind == PolicyKind::normal ? 0 : args.n_discrete;
}
template <typename T>
int64_t ppo_loss_params_width(const PpoLossArgs<T>& args) {
  if (args.kind == PolicyKind::categorical) return args.actions_width;
  int64_t width = args.kind == PolicyKind::multi_discrete ? 0 : 2 * args.actions_width;
  for (int64_t k = 0; k < ppo_loss_discrete(args); ++k) width += args.nvec[k];
  return width;
}

constexpr int64_t kPpoComponentBytes = 768;

// Scratch of a policy whose categorical variables have `width` logits together, or whose Gaussian has `width`
// dimensions (a hybrid: the sum): at most three vectors of 64 bytes for each, and the state of the
// components.
constexpr size_t ppo_loss_scratch_bytes(int64_t width, int64_t components = 1) {
  return static_cast<size_t>((width + components) * 3 * 64 + components * (kPpoComponentBytes + 64) + 256);
}

template <SimdPath Path, typename T>
PpoLossFault ppo_loss_cpu(const PpoLossArgs<T>& args);

// The most categorical variables that the CUDA kernel takes.
constexpr int kPpoCudaDiscrete = 32;

// Enqueues on `stream` of device `device`; returns null, or CUDA's words for what went wrong. Data that no
// loss can be computed from makes the loss NaN: to name its row the call would have to wait for the device.
// `memory`: ppo_loss_cuda_scratch doubles on the device.
template <typename T>
int64_t ppo_loss_cuda_scratch(const PpoLossArgs<T>& args);
template <typename T>
const char* ppo_loss_cuda(const PpoLossArgs<T>& args, double* memory, int device, void* stream);

}  // namespace optix_fast
