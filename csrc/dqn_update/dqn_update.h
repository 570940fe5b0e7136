// Deep Q-learning in one call: K updates, each of which draws B transitions from the replay and does all that
// optix_fast/learners/dqn/update.py does in torch (Mnih et al. 2015; double Q: van Hasselt et al. 2016; priorities:
// Schaul et al. 2016):
//
//   draw      rows given by the caller, or leaves of a sum tree with importance weights w (priorities.h);
//             n-step rewards R and discounts γ^m·(1 − terminated) from replay.h
//   target    y = R + discount·Q̄(o′, a*);  a* = argmax_a Q(o′, a) with double Q, else argmax_a Q̄(o′, a); the
//             first of equals, over the actions that the mask of o′ allows, where the replay has masks.
//             Where the discount is zero, y = R even if Q̄(o′, a*) is NaN
//   loss      mean w·l(Q(o, a) − y);  l(x) = x²  or Huber: x²/2 where |x| < 1, else |x| − 1/2
//   step      backward, ‖g‖ clipped as in mlp/trained.h, Adam
//   after     priorities (|Q(o, a) − y| + eps)^α into the tree;  Q̄ ← Q̄ + τ·(Q − Q̄) in Adam's sweep, or
//             Q̄ ← Q after every target_update_freq-th update since training began; wherever Q̄ moves, it takes
//             over the running statistics of Q's batch norms
//
// Parameters, optimizer state, running statistics, target network and tree are changed where they are. A target, loss or norm
// that is not finite ends the call; everything is then put back as it was before the first update.
//
// Memory: one arena, about 6 elements per parameter, 3·B per unit of every layer, and 12 bytes per draw.
//
// CPU: one thread, and the worker team (threads.h) for large products; the order of every sum is fixed
// (mlp.h), so the same call gives the same bits. The gradient by the outputs has one entry in each row. The
// target network's transposed weights are computed again only after it has changed.
#pragma once

#include "learners/draws.h"
#include "mlp/mlp.h"
#include "mlp/optimizers.h"

namespace optix_fast {

// l. The names are those of DQNConfig.
enum class TdLoss : uint8_t { mse, huber };
constexpr const char* kTdLossNames[] = {"mse", "huber"};

template <typename T>
struct DqnUpdateArgs {
  Stack<T> online, target;
  Draws<T> draws;
  bool double_q;
  TdLoss loss;
  double max_grad_norm;  // infinity: no clipping
  double tau;            // 0: the target is copied
  int64_t target_update_freq, updates_before;
  Trained<T> trained;

  // Work memory.
  T* observations;       // [B, padded(D)]
  T* next_observations;  // [B, padded(D)]
  int64_t *actions, *best;
  uint8_t* next_masks;  // [B, K], or null: every action is allowed
  T* td;
  T* grad_output;  // [B, online.last().stride]
  Scratch<T> scratch;
};

struct DqnUpdateResult {
  enum Failure : uint8_t { none, target, loss, gradient, action, draw } failure = none;
  DrawFault draw_fault = DrawFault::none;  // of `draw`
  int64_t row = 0;                         // of the replay, whose action is none of the network's
  int64_t updates = 0, copies = 0;
  // Over the updates: of the loss, of mean |Q(o, a) − y|, of mean Q(o, a).
  double loss_sum = 0, td_sum = 0, value_sum = 0;
};

template <SimdPath Path, typename T>
DqnUpdateResult dqn_update_cpu(const DqnUpdateArgs<T>& args);

}  // namespace optix_fast
