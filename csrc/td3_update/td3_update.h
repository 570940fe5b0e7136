// TD3's learning in one call (Fujimoto et al. 2018): K updates, each of which draws B transitions from the
// replay and does the following. n counts updates since training began, from 1.
//
//   draw     rows given by the caller, or leaves of a sum tree with importance weights w (priorities.h);
//            n-step rewards r and discounts γ^m·(1 − terminated) from replay.h
//   target   a' = clip(tanh(π̄(s')) + clip(target_noise·ε, ±target_noise_clip), ±1), ε from the caller
//            y = r + discount·min_i Q̄_i(s', a'); r where the discount is zero, even if Q̄ is NaN
//   critics  Σ_i mean w·(Q_i(s, a) − y)²; Adam
//   actor    where policy_delay divides n: −mean Q_1(s, tanh(π(s))); Adam; then for actor and critics
//            target ← target + τ·(net − target)
//
//   π returns what is before the tanh, [B, A]. Q reads s ‖ a, a row of D + A columns.
//   ‖g‖ is that of the actor, and of both critics together; g ← g·min(1, max_grad_norm / (‖g‖ + 1e-6))
//   TD error for the priorities: ½(|δ_1| + |δ_2|)
//
// Parameters, optimizer state, targets and tree are changed where they are. A loss or norm that is not finite
// ends the call; everything is then put back as it was before the first update.
//
// The critics' targets follow in Adam's sweep, before the actor's step: neither reads what the other writes.
//
// Memory: from one arena, about 8 elements per parameter, and B per unit of every layer.
//
// CPU: one thread, and the worker team (threads.h) for large products; the order of every sum is fixed
// (mlp.h), so the same call gives the same bits. The critics' part is in learners/critics.h. Updates
// without an actor's step leave out the actor's forward pass, too.
#pragma once

#include "learners/critics.h"

namespace optix_fast {

constexpr int kTd3Statistics = 3;  // critic loss, actor loss, mean of ½(Q_1 + Q_2)(s, a)

template <typename T>
struct Td3Work {
  T* observations;    // [2B, padded(D)]: s, then s'
  T *action, *slope;  // [B, A]: tanh(π) and 1 − tanh²(π)
  T* grad_policy;     // [B, actor.last().stride]
};

template <typename T>
struct Td3UpdateArgs {
  Stack<T> actor, target_actor;
  Critics<T> critics;
  Draws<T> draws;
  const T* noise;  // [K, B, A]: ε

  double tau;
  double target_noise, target_noise_clip;
  double max_grad_norm;  // infinity: no clipping
  int64_t policy_delay, updates_before;

  Trained<T> trained_actor;  // with its target

  Td3Work<T> work;
  Scratch<T> scratch;  // of the actor
};

struct Td3UpdateResult {
  enum Failure : uint8_t {
    none,
    critic_loss,
    critic_gradient,
    actor_loss,
    actor_gradient,
    draw
  } failure = none;
  DrawFault draw_fault = DrawFault::none;  // of `draw`
  int64_t actor_updates = 0;
  double sums[kTd3Statistics] = {};  // the actor's loss: over actor_updates
};

template <SimdPath Path, typename T>
Td3UpdateResult td3_update_cpu(const Td3UpdateArgs<T>& args);

}  // namespace optix_fast
