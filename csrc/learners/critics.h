// K critics of continuous actions, as SAC, TD3, TQC and CrossQ train them.
//
//   Q_i reads s ‖ a, a row of D + A columns, and returns M numbers: a value, or quantiles of the return.
//   TD error  mean_i |δ_i|, for the priorities
//
// ∂Q/∂a needs no weight gradients, and of the input's gradient only the last columns.
//
// CPU: each critic has memory of its own, so that each set of transposed weights is made once per update, and
// threads of the worker team (threads.h) work side by side. A joint first layer would save no arithmetic, and
// only that one, of D + A columns, could be joint.
#pragma once

#include "draws.h"
#include "mlp/mlp.h"
#include "mlp/optimizers.h"

namespace optix_fast {

constexpr int kMaxCritics = 16;

template <typename T>
struct Critics {
  int n;                          // K
  Stack<T> nets[kMaxCritics];     //
  Stack<T> targets[kMaxCritics];  // of no layers where a learner has none
  Trained<T> trained;             // of all nets, each with its target
  int64_t features, width;        // D, A
  int64_t outputs = 1;            // M
  Scratch<T> scratch[kMaxCritics];

  // Work memory.
  T* taken;                    // s ‖ a, [B, padded(D + A)]
  T* next;                     // s' ‖ a', the rows behind them
  T* chosen;                   // s ‖ the actor's own action
  T *y, *td;                   // [B]
  T* by_value[kMaxCritics];    // [B]: of what the actor climbs, by each of a critic's outputs
  T* grad_value[kMaxCritics];  // [2B, stride of the last layer]
  T* grad_input[kMaxCritics];  // [B, padded(D + A) − columns before the actions' first line]
  T* grad_action;              // [B, A]
  int64_t* rows[kMaxCritics];  // [B]
};

struct CriticStep {
  enum Failure : uint8_t { none, loss_not_finite, gradient_not_finite } failure = none;
  double loss = 0, mean_q = 0;  // mean_q: of Q_i(s, a), over the critics too
};

}  // namespace optix_fast
