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
//   categorical  params [B, K] logits, actions int64 [B]; a masked logit has probability and gradient zero
//   normal       params [B, 2A] = mean ‖ log_std, actions [B, A]; log-probability and entropy sum over A
//
// Memory: row-major, one row per sample; per-sample arrays are [B]. stats: policy, value, entropy (the sum of
// the H_k), approx_kl, clip_fraction, H_0, H_1, ... as float.
//
// CPU: a block of as many samples as a vector has lanes is transposed into scratch, so that every step runs
// over the samples, whatever K or A is. Forward and gradient of a block follow each other while it is in
// cache. A floor on the entropy makes every gradient depend on the batch's mean entropy; only then a first
// pass computes it. Order of the sums: lane by lane over blocks, lanes from first to last, in double; the
// same bits at every call.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd_path.h"

namespace optix_fast {

enum class PolicyKind : uint8_t { categorical, normal };
enum class ValueClip : uint8_t { none, larger, clipped };

constexpr int kPpoStatistics = 5;  // before the entropies of the components

template <typename T>
struct PpoLossArgs {
  PolicyKind kind;
  int64_t batch;                    // B, at least 1
  int64_t actions_width;            // K of a categorical, A of a normal
  const T* params;                  // [B, K] or [B, 2A]
  const int64_t* discrete_actions;  // [B], categorical
  const T* continuous_actions;      // [B, A], normal
  const uint8_t* action_mask;       // [B, K], or null: all allowed
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
  T* scratch;      // ppo_loss_scratch_bytes(actions_width)
  T* loss;         // one element, written
  float* stats;    // [kPpoStatistics + components], written
  T* grad_params;  // like params, written; null: not wanted
  T* grad_values;  // [B], written; null: not wanted
};

// Data that no loss can be computed from, found on the way.
struct PpoLossFault {
  enum Kind : uint8_t { none, action_out_of_range, action_masked, row_masked } kind = none;
  int64_t row = -1;
};

constexpr size_t ppo_loss_scratch_bytes(int64_t actions_width) {
  return static_cast<size_t>(actions_width) * 2 * 64;  // two vectors of at most 64 bytes per column
}

template <SimdPath Path, typename T>
PpoLossFault ppo_loss_cpu(const PpoLossArgs<T>& args);

}  // namespace optix_fast
