// All of PPO's learning from one window in one call: for every minibatch of every epoch, gather its rows,
// forward both networks, the loss of ppo_loss with its gradients, backward, clip the gradient's global norm,
// Adam.
//
//   rows           R transitions: observations [R, D] (normalised), actions, old log-probabilities,
//                  old values, advantages, returns, allowed actions [R, K]
//   permutations   [E, R]: the order of the rows in each epoch, cut into minibatches; the last may be smaller.
//                  With joins_last_row, one of a single row joins the minibatch before it
//   networks       actor: trunk → actor stack; critic: trunk → critic stack. The trunk, the leading layers
//                  that both share, may be empty.
//   distribution   categorical: the actor's outputs are logits [B, K]
//                  multi_discrete: they are the logits of one component after the other [B, ΣK_c]
//                  normal: they are mean ‖ log_std [B, 2A] or, with a free log_std [A], the mean [B, A];
//                  log_std is clamped to [−5, 2] and has no gradient outside
//
//   ‖g‖ over the listed parameters; g ← g·min(1, max_grad_norm / (‖g‖ + 1e-6)) as torch's clip_grad_norm_
//   the call ends after the minibatch whose approx_kl exceeds kKlStop·target_kl
//   parameters that are not listed are frozen: they neither move nor count in ‖g‖
//
// Parameters, optimizer state and running statistics are changed where torch keeps them. A loss or norm that is not finite, or
// data that no loss can be computed from, ends the call; everything is then put back as it was before the
// first minibatch.
//
// Memory: everything comes from one arena, about 6 elements per parameter and B·2 per unit of every layer.
//
// CPU: one thread, or the worker team (threads.h): actor and critic side by side, or large products shared out.
// The order of every sum is fixed (mlp.h, ppo_loss.h), so the same call gives the same bits for every team.
#pragma once

#include "mlp/mlp.h"
#include "mlp/optimizers.h"
#include "ppo_loss/ppo_loss.h"

namespace optix_fast {

constexpr double kKlStop = 1.5;

// What one minibatch needs besides the layers.
template <typename T>
struct Minibatch {
  T* observations;            // [B, padded(D)]
  int64_t* discrete_actions;  // [B, C]
  T* continuous_actions;      // [B, A]
  uint8_t* action_mask;       // [B, K]
  T* old_log_probs;
  T* advantages;
  T* old_values;
  T* returns;
  T* params;  // [B, K] or [B, 2A]
  T* grad_params;
  T* values;  // [B]
  T* grad_values;
  T* grad_actor;     // [B, actor.last().stride]
  T* grad_critic;    // [B, critic.last().stride]
  T* grad_trunk[2];  // by actor and by critic, [B, trunk.last().stride] each
  T* loss_scratch;
};

template <typename T>
struct PpoUpdateArgs {
  Stack<T> trunk, actor, critic;
  PpoLossArgs<T> loss;  // kind, actions_width and the coefficients; its arrays are filled here
  const T* log_std;     // [A] free, or null
  T* grad_log_std;

  int64_t rows, features;
  const T* observations;
  int64_t components;               // C: numbers in a discrete action
  const int64_t* discrete_actions;  // [R, C]
  const T* continuous_actions;
  const uint8_t* action_mask;  // or null
  const T* old_log_probs;
  const T* values;
  const T* advantages;
  const T* returns;

  const int64_t* permutations;
  int64_t epochs, minibatch_size;
  bool joins_last_row;
  double max_grad_norm;  // infinity: no clipping
  double target_kl;      // infinity: the call never ends early

  Trained<T> trained;

  Minibatch<T> batch;
  float* stats;           // [kPpoStatistics + C]
  Scratch<T> scratch[2];  // of the actor and of the critic
};

struct PpoUpdateResult {
  enum Failure : uint8_t { none, loss, gradient, data } failure = none;
  PpoLossFault fault;  // of `data`; its row is one of the window's
  int64_t updates = 0;
  double sums[kPpoStatistics] = {};  // of the minibatches' statistics, in ppo_loss's order
};

template <SimdPath Path, typename T>
PpoUpdateResult ppo_update_cpu(const PpoUpdateArgs<T>& args);

}  // namespace optix_fast
