// What soft actor-critics (SAC, TQC, CrossQ) share in the core: a squashed Gaussian policy with a learned
// temperature, trained against K critics (critics.h).
//
//   sample       u = μ + σ·ε, a = tanh u, log π(a) as in tanh_normal.h; log_std is clamped to [−5, 2] and has
//                no gradient outside. â for s and a' for s', from the caller's noise
//   temperature  log α by ∂ = −mean(log π(â|s) + target entropy)
//   actor        mean α·log π(â|s) − V(s, â), V from the critics. With q = ∂V/∂â and 1 − â² = slope:
//                ∂/∂μ = (α·2â − q·slope)/B,  ∂/∂s = (α·(2â·σε − 1) − q·slope·σε)/B
//
//   ‖g‖ is that of the actor, and of all critics together; g ← g·min(1, max_grad_norm / (‖g‖ + 1e-6))
//
// Parameters, optimizer state, targets and tree are changed where they are. A loss or norm that is not
// finite ends the call; everything is then put back as it was before the first update.
//
// ∂Q/∂â needs no weight gradients, only the last columns of the input's gradient, and of each critic only
// the rows where it counts: those are moved together first, unless rows depend on each other (mlp.h).
//
// Memory: from one arena, about 8 elements per parameter, and B to 2B per unit of every layer.
//
// CPU: one thread, or the worker team (threads.h): the critics side by side, or large products shared out. The
// order of every sum is fixed (mlp.h), so the same call gives the same bits for every team.
#pragma once

#include "critics.h"

namespace optix_fast {

// Critic loss, actor loss, temperature loss, mean Q, entropy.
constexpr int kSoftStatistics = 5;

// Actions drawn from a policy's outputs, and what their gradients need: [B, A] each, and [B].
template <typename T>
struct PolicySample {
  T *mean, *log_std;
  T *action, *slope, *spread;
  T* terms;
  T* log_prob;
};

template <typename T>
struct SoftArgs {
  Stack<T> actor;
  Critics<T> critics;
  Draws<T> draws;
  const T* noise;  // [K, 2, B, A]: of a', of â

  double tau;
  double max_grad_norm;  // infinity: no clipping
  double target_entropy;
  const T* log_alpha;

  Trained<T> trained_actor;
  Trained<T> temperature;  // log_alpha, or nothing: it stays
  T* grad_log_alpha;       // one element

  // Work memory.
  T* observations;  // [2B, padded(D)]: s, then s'
  PolicySample<T> now, next;
  T* grad_policy;      // [B, actor.last().stride]
  Scratch<T> scratch;  // of the actor
};

struct SoftResult {
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
  int64_t actor_updates = 0;
  double sums[kSoftStatistics] = {};  // of the updates' statistics
};

}  // namespace optix_fast
