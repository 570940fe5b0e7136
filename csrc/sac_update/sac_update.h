// Soft actor-critic's learning in one call: K updates, each of which draws B transitions from the replay and
// does all that optix_fast/learners/sac/update.py does in torch (Haarnoja et al. 2018), in this order:
//
//   draw         rows given by the caller, or leaves of a sum tree with importance weights w (priorities.h);
//                n-step rewards r and discounts γ^m·(1 − terminated) from replay.h
//   actor        one forward pass over s and s': 2B rows
//   sample       u = μ + σ·ε, a = tanh u, log π(a) as in tanh_normal.h; log_std is clamped to [−5, 2] and has
//                no gradient outside. â for s and a' for s', from the caller's noise
//   temperature  log α by ∂ = −mean(log π(â|s) + target entropy); everything below uses α from before
//   target       y = r + discount·(min_i Q̄_i(s', a') − α·log π(a'|s')); r where the discount is zero
//   critics      ½·Σ_i mean w·(Q_i(s, a) − y)²; Adam; Q̄ ← Q̄ + τ·(Q − Q̄) in the same sweep over memory
//   actor        mean α·log π(â|s) − min_i Q_i(s, â); Adam. With q = ∂min_i Q_i/∂â and 1 − â² = slope:
//                ∂/∂μ = (α·2â − q·slope)/B,  ∂/∂s = (α·(2â·σε − 1) − q·slope·σε)/B
//
//   Q reads s ‖ a, a row of D + A columns. Where Q_1 = Q_2 both have half of the gradient, as torch.minimum.
//   ‖g‖ is that of the actor, and of both critics together; g ← g·min(1, max_grad_norm / (‖g‖ + 1e-6))
//   TD error for the priorities: ½(|δ_1| + |δ_2|)
//
// Parameters, optimizer state, targets and tree are changed where they are. A loss or norm that is not
// finite ends the call; everything is then put back as it was before the first update.
//
// ∂Q/∂â needs no weight gradients, only the last columns of the input's gradient, and of each critic only
// the rows where it is the smaller one: those are moved together first, which saves one of four passes.
//
// Memory: from one arena, about 8 elements per parameter, and B to 2B per unit of every layer.
//
// CPU: one thread, or the worker team (threads.h): the critics side by side, or large products shared out. The
// order of every sum is fixed (mlp.h), so the same call gives the same bits for every team. The critics' part is
// in learners/twin_critics.h.
#pragma once

#include "learners/twin_critics.h"

namespace optix_fast {

constexpr int kSacStatistics = 5;  // critic loss, actor loss, temperature loss, mean Q, entropy

// Actions drawn from a policy's outputs, and what their gradients need: [B, A] each, and [B].
template <typename T>
struct PolicySample {
  T *mean, *log_std;
  T *action, *slope, *spread;
  T* terms;
  T* log_prob;
};

template <typename T>
struct SacWork {
  T* observations;  // [2B, padded(D)]: s, then s'
  PolicySample<T> now, next;
  T* shares[2];    // [B] each: ∂min_i Q_i/∂Q_i
  T* grad_policy;  // [B, actor.last().stride]
};

template <typename T>
struct SacUpdateArgs {
  Stack<T> actor;
  TwinCritics<T> critics;
  Draws<T> draws;
  const T* noise;  // [K, 2, B, A]: of a', of â

  double tau;
  double max_grad_norm;  // infinity: no clipping
  double target_entropy;
  const T* log_alpha;

  Trained<T> trained_actor;
  Trained<T> temperature;  // log_alpha, or nothing: it stays
  T* grad_log_alpha;       // one element

  SacWork<T> work;
  Scratch<T> scratch;  // of the actor
};

struct SacUpdateResult {
  enum Failure : uint8_t {
    none,
    temperature_loss,
    critic_loss,
    critic_gradient,
    actor_loss,
    actor_gradient,
    draw
  } failure = none;
  DrawFault draw_fault = DrawFault::none;  // of `draw`
  double sums[kSacStatistics] = {};        // of the updates' statistics
};

template <SimdPath Path, typename T>
SacUpdateResult sac_update_cpu(const SacUpdateArgs<T>& args);

}  // namespace optix_fast
