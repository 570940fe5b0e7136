#include "td3_update.h"

#include "learners/critics_cpu.h"
#include "simd_math.h"

namespace optix_fast {
namespace {

// A NaN stays.
template <typename T>
T clip(T x, T bound) {
  return x > bound ? bound : x < -bound ? -bound : x;
}

// tanh of a policy's outputs, and its derivative.
template <typename T>
void squash(const Td3UpdateArgs<T>& a, const Layer<T>& policy) {
  using S = Simd<T>;
  const Td3Work<T>& w = a.work;
  const int64_t width = a.critics.width, n = a.draws.batch * width;
  copy_columns(policy.output, policy.stride, a.draws.batch, width, w.action, width);
  for (int64_t at = 0; at < n; at += S::lanes) {
    const Folded<S> folded = fold<S>(S::load(w.action + at));
    const auto part = T(2) / (T(1) + folded.power);
    S::store(w.action + at, tanh_of<S>(folded));
    S::store(w.slope + at, folded.power * part * part);
  }
}

// y, from the target networks. The critics' own values of the actions taken come with it (forward_critics).
template <SimdPath Path, typename T>
void set_targets(const Td3UpdateArgs<T>& a, const T* noise) {
  const Draws<T>& d = a.draws;
  const Critics<T>& c = a.critics;
  const int64_t stride = padded<T>(c.features);
  stack_forward_cpu<Path, T>(a.target_actor, a.work.observations + d.batch * stride, stride, d.batch);
  squash(a, a.target_actor.last());
  const T scale = static_cast<T>(a.target_noise), bound = static_cast<T>(a.target_noise_clip);
  T* action = a.work.action;
  for (int64_t i = 0; i < d.batch * c.width; ++i)
    action[i] = clip(action[i] + clip(scale * noise[i], bound), T(1));
  put_actions(c, d.batch, action, c.next);
  forward_critics<Path>(c, d.batch);
  for (int64_t i = 0; i < d.batch; ++i) {
    const T value = least_of(c.targets, c.n, i);
    c.y[i] = d.rewards[i] + (d.discounts[i] > T(0) ? d.discounts[i] * value : T(0));
  }
}

// The actor's step, and its target after it.
template <SimdPath Path, typename T>
Td3UpdateResult::Failure actor_step(const Td3UpdateArgs<T>& a, Td3UpdateResult& result) {
  const Td3Work<T>& w = a.work;
  const Critics<T>& c = a.critics;
  const int64_t batch = a.draws.batch, stride = padded<T>(c.features), width = c.width;
  stack_forward_cpu<Path, T>(a.actor, w.observations, stride, batch);
  squash(a, a.actor.last());
  put_actions(c, batch, w.action, c.chosen);
  forward_critic<Path>(c, c.nets[0], c.chosen, batch);
  double loss = 0.0;
  for (int64_t row = 0; row < batch; ++row) {
    loss -= static_cast<double>(q_of(c.nets[0], row));
    c.by_value[0][row] = T(-1) / static_cast<T>(batch);
  }
  loss /= static_cast<double>(batch);
  if (!finite(loss)) return Td3UpdateResult::actor_loss;
  __builtin_memset(c.grad_action, 0, batch * width * sizeof(T));
  add_action_gradient(c, 0, action_gradient<Path>(c, batch, 0));
  const int64_t by_row = a.actor.last().stride;
  for (int64_t i = 0; i < batch; ++i) {
    for (int64_t j = 0; j < width; ++j) {
      w.grad_policy[i * by_row + j] = c.grad_action[i * width + j] * w.slope[i * width + j];
    }
  }
  stack_backward_cpu<Path, T>(a.actor, a.scratch, w.observations, stride, batch, w.grad_policy, nullptr);
  if (!clipped_step<Path>(a.trained_actor, a.max_grad_norm, a.tau)) return Td3UpdateResult::actor_gradient;
  result.sums[1] += loss;
  ++result.actor_updates;
  return Td3UpdateResult::none;
}

// The transposed weights are those of the parameters, before and after.
template <SimdPath Path, typename T>
Td3UpdateResult::Failure one_update(const Td3UpdateArgs<T>& a, int64_t k, Td3UpdateResult& result) {
  const Critics<T>& c = a.critics;
  const bool delayed = (a.updates_before + k + 1) % a.policy_delay == 0;
  const int64_t* rows;
  result.draw_fault = draw_rows<Path>(a.draws, k, rows);
  if (result.draw_fault != DrawFault::none) return Td3UpdateResult::draw;
  gather_transitions<Path>(c, a.draws, rows, a.work.observations);
  set_targets<Path>(a, a.noise + k * a.draws.batch * c.width);
  const CriticStep step = descend_critics<Path>(c, a.draws.batch, squared_errors(c, a.draws, 2.0),
                                                a.max_grad_norm, delayed ? a.tau : 0.0);
  if (step.failure == CriticStep::loss_not_finite) return Td3UpdateResult::critic_loss;
  if (step.failure == CriticStep::gradient_not_finite) return Td3UpdateResult::critic_gradient;
  refresh<Path>(c, c.nets);
  if (delayed) {
    const Td3UpdateResult::Failure failure = actor_step<Path>(a, result);
    if (failure != Td3UpdateResult::none) return failure;
    refresh<Path>(c, c.targets);
    copy_critic_statistics(c);
    copy_statistics(a.actor, a.target_actor);
    for (const Stack<T>* net : {&a.actor, &a.target_actor}) stack_refresh_cpu<Path, T>(*net);
  }
  note_errors<Path>(a.draws, k, c.td);
  result.sums[0] += step.loss;
  result.sums[2] += step.mean_q;
  return Td3UpdateResult::none;
}

template <typename T>
void exchange_all(const Td3UpdateArgs<T>& a, bool restore) {
  exchange_saved(a.trained_actor, restore);
  for (const Stack<T>* net : {&a.actor, &a.target_actor}) exchange_statistics(*net, restore);
  exchange_critics(a.critics, restore);
}

}  // namespace

template <SimdPath Path, typename T>
Td3UpdateResult td3_update_cpu(const Td3UpdateArgs<T>& a) {
  Td3UpdateResult result;
  exchange_all(a, false);
  for (const Stack<T>* net : {&a.actor, &a.target_actor}) stack_refresh_cpu<Path, T>(*net);
  refresh<Path>(a.critics, a.critics.nets);
  refresh<Path>(a.critics, a.critics.targets);
  for (int64_t k = 0; k < a.draws.updates; ++k) {
    result.failure = one_update<Path>(a, k, result);
    if (result.failure == Td3UpdateResult::none) continue;
    exchange_all(a, true);
    take_back_errors<Path>(a.draws, k);
    break;
  }
  return result;
}

template Td3UpdateResult td3_update_cpu<kPath, float>(const Td3UpdateArgs<float>&);
template Td3UpdateResult td3_update_cpu<kPath, double>(const Td3UpdateArgs<double>&);

}  // namespace optix_fast
