// Two critics of continuous actions and their targets, as SAC and TD3 train them.
//
//   Q_i reads s ‖ a, a row of D + A columns, and both are fitted to the same y:
//   loss      factor·½·Σ_i mean w·(Q_i(s, a) − y)²
//   TD error  ½(|δ_1| + |δ_2|), for the priorities
//
// ∂Q/∂a needs no weight gradients, and of the input's gradient only the last columns.
//
// CPU: each critic has memory of its own, so that each set of transposed weights is made once per update, and
// two threads of the worker team (threads.h) work side by side. A joint first layer would save no arithmetic,
// and only that one, of D + A columns, could be joint.
#pragma once

#include "draws.h"
#include "mlp/mlp.h"
#include "mlp/optimizers.h"

namespace optix_fast {

template <typename T>
struct TwinCritics {
  Stack<T> nets[2], targets[2];
  Trained<T> trained;       // of both, each with its target
  int64_t features, width;  // D, A
  Scratch<T> scratch[2];

  // Work memory.
  T* taken;          // s ‖ a, [B, padded(D + A)]
  T* chosen;         // s ‖ the actor's own action
  T* next;           // s' ‖ a'
  T *y, *td;         // [B]
  T* grad_value[2];  // [B, stride of the last layer]
  T* grad_input[2];  // [B, padded(D + A) − columns before the actions' first line]
  T* grad_action;    // [B, A]
  int64_t* rows[2];  // [B]
};

struct CriticStep {
  enum Failure : uint8_t { none, loss_not_finite, gradient_not_finite } failure = none;
  double loss = 0, mean_q = 0;  // mean_q: of ½(Q_1 + Q_2)(s, a)
};

}  // namespace optix_fast
