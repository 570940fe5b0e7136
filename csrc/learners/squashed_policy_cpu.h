// The steps of squashed_policy.h. For the kernel files only.
#pragma once

#include "critics_cpu.h"
#include "simd_math.h"
#include "squashed_policy.h"
#include "tanh_normal/log_std.h"

namespace optix_fast {
namespace {

constexpr double kHalfLog2Pi = 0.91893853320467274;

// Actions from the policy's outputs at rows first … first + B, also written behind the observations of
// `input`.
template <typename T>
void sample(const SoftArgs<T>& a, int64_t first, const T* noise, const PolicySample<T>& to, T* input) {
  using S = Simd<T>;
  const int64_t batch = a.draws.batch, width = a.critics.width, n = batch * width;
  const Layer<T>& policy = a.actor.last();
  for (int64_t i = 0; i < batch; ++i) {
    const T* out = policy.output + (first + i) * policy.stride;
    for (int64_t j = 0; j < width; ++j) {
      to.mean[i * width + j] = out[j];
      to.log_std[i * width + j] = clamped_log_std(out[width + j]);
    }
  }
  for (int64_t at = 0; at < n; at += S::lanes) {
    const auto log_std = S::load(to.log_std + at);
    const auto epsilon = S::load_first(noise + at, n - at);
    const auto spread = exp<S>(log_std) * epsilon;
    const Folded<S> folded = fold<S>(S::load(to.mean + at) + spread);
    const auto part = T(2) / (T(1) + folded.power);
    S::store(to.terms + at,
             (T(-0.5) * epsilon * epsilon - (log_std + T(kHalfLog2Pi))) - log_slope<S>(folded));
    S::store(to.action + at, tanh_of<S>(folded));
    S::store(to.slope + at, folded.power * part * part);
    S::store(to.spread + at, spread);
  }
  for (int64_t i = 0; i < batch; ++i) {
    T sum = 0;
    for (int64_t j = 0; j < width; ++j) sum += to.terms[i * width + j];
    to.log_prob[i] = sum;
  }
  put_actions(a.critics, batch, to.action, input);
}

template <typename T>
double mean(const T* values, int64_t n) {
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(values[i]);
  return sum / static_cast<double>(n);
}

template <typename T>
T temperature_of(const SoftArgs<T>& a) {
  return static_cast<T>(__builtin_exp(static_cast<double>(*a.log_alpha)));
}

// −log α·mean(log π + target entropy), and a step on it.
template <SimdPath Path, typename T>
double temperature_step(const SoftArgs<T>& a, double mean_log_prob) {
  const double gradient = -(mean_log_prob + a.target_entropy);
  const double loss = static_cast<double>(*a.log_alpha) * gradient;
  *a.grad_log_alpha = static_cast<T>(gradient);
  if (finite(loss)) clipped_step<Path>(a.temperature, kInfinity, 0.0);
  return loss;
}

// y = r + discount·(min_i Q_i − α·log π'), of the critics' values at rows first … first + B.
template <typename T>
void set_least_targets(const SoftArgs<T>& a, const Stack<T>* critics, int64_t first, T alpha) {
  const Draws<T>& d = a.draws;
  for (int64_t i = 0; i < d.batch; ++i) {
    const T value = least_of(critics, a.critics.n, first + i) - alpha * a.next.log_prob[i];
    a.critics.y[i] = d.rewards[i] + (d.discounts[i] > T(0) ? d.discounts[i] * value : T(0));
  }
}

inline SoftResult::Failure failure_of(const CriticStep& step) {
  return step.failure == CriticStep::none              ? SoftResult::none
         : step.failure == CriticStep::loss_not_finite ? SoftResult::critic_loss
                                                       : SoftResult::critic_gradient;
}

// Gradients of mean(α·log π − V) by the policy's outputs.
template <typename T>
void set_policy_gradient(const SoftArgs<T>& a, T alpha) {
  const Layer<T>& policy = a.actor.last();
  const int64_t width = a.critics.width;
  const T share = T(1) / static_cast<T>(a.draws.batch);
  for (int64_t i = 0; i < a.draws.batch; ++i) {
    T* by_output = a.grad_policy + i * policy.stride;
    const T* log_std = policy.output + i * policy.stride + width;
    for (int64_t j = 0; j < width; ++j) {
      const int64_t at = i * width + j;
      const T by_mean = alpha * T(2) * a.now.action[at] - a.critics.grad_action[at] * a.now.slope[at];
      by_output[j] = share * by_mean;
      by_output[width + j] = inside_log_std(log_std[j]) ? share * (by_mean * a.now.spread[at] - alpha) : T(0);
    }
  }
}

// The actor's step, after a forward pass of the critics over c.chosen. value(row): V, whose derivatives by the
// critics' outputs it leaves in c.by_value.
template <SimdPath Path, typename T, typename Value>
SoftResult::Failure actor_step(const SoftArgs<T>& a, T alpha, SoftResult& result, const Value& value) {
  const Critics<T>& c = a.critics;
  const int64_t batch = a.draws.batch;
  double loss = 0.0;
  for (int64_t row = 0; row < batch; ++row) {
    loss += static_cast<double>(alpha * a.now.log_prob[row] - value(row));
  }
  loss /= static_cast<double>(batch);
  if (!finite(loss)) return SoftResult::actor_loss;
  __builtin_memset(c.grad_action, 0, batch * c.width * sizeof(T));
  int64_t n[kMaxCritics];
  for_each_critic(c, batch, [&](int i) { n[i] = action_gradient<Path>(c, batch, i); });
  for (int i = 0; i < c.n; ++i) add_action_gradient(c, i, n[i]);
  set_policy_gradient(a, alpha);
  stack_backward_cpu<Path, T>(a.actor, a.scratch, a.observations, padded<T>(c.features), batch, a.grad_policy,
                              nullptr);
  if (!clipped_step<Path>(a.trained_actor, a.max_grad_norm, 0.0)) return SoftResult::actor_gradient;
  result.sums[1] += loss;
  result.sums[4] -= mean(a.now.log_prob, batch);
  ++result.actor_updates;
  return SoftResult::none;
}

// One update with target critics, where every update is one of the actor, too.
//
//   fit(alpha)  after Q̄_i of c.next and Q_i of c.taken: the critics' gradients, see squared_errors
//   value(row)  see actor_step
//
// The transposed weights are those of the parameters, before and after.
template <SimdPath Path, typename T, typename Fit, typename Value>
SoftResult::Failure soft_update(const SoftArgs<T>& a, int64_t update, SoftResult& result, const Fit& fit,
                                const Value& value) {
  const Critics<T>& c = a.critics;
  const int64_t batch = a.draws.batch;
  const T* noise = a.noise + 2 * update * batch * c.width;
  stack_forward_halves_cpu<Path, T>(a.actor, a.observations, padded<T>(c.features), batch, a.grad_policy);
  sample(a, batch, noise, a.next, c.next);
  sample(a, 0, noise + batch * c.width, a.now, c.chosen);
  const T alpha = temperature_of(a);
  const double alpha_loss = temperature_step<Path>(a, mean(a.now.log_prob, batch));
  if (!finite(alpha_loss)) return SoftResult::temperature_loss;
  forward_critics<Path>(c, batch);
  const CriticStep step = descend_critics<Path>(c, batch, fit(alpha), a.max_grad_norm, a.tau);
  if (step.failure != CriticStep::none) return failure_of(step);
  for_each_critic(c, batch, [&](int i) {
    for (const Stack<T>* net : {&c.nets[i], &c.targets[i]}) stack_refresh_cpu<Path, T>(*net);
    forward_critic<Path>(c, c.nets[i], c.chosen, batch);
  });
  const SoftResult::Failure failure = actor_step<Path>(a, alpha, result, value);
  if (failure != SoftResult::none) return failure;
  stack_refresh_cpu<Path, T>(a.actor);
  copy_critic_statistics(c);
  result.sums[0] += step.loss;
  result.sums[2] += alpha_loss;
  result.sums[3] += step.mean_q;
  return SoftResult::none;
}

template <typename T>
void exchange_all(const SoftArgs<T>& a, bool restore) {
  for (const Trained<T>* trained : {&a.trained_actor, &a.temperature}) exchange_saved(*trained, restore);
  exchange_statistics(a.actor, restore);
  exchange_critics(a.critics, restore);
}

// All updates; update(k, result) does one, after its transitions have been gathered.
template <SimdPath Path, typename T, typename Update>
SoftResult soft_updates(const SoftArgs<T>& a, const Update& update) {
  SoftResult result;
  exchange_all(a, false);
  stack_refresh_cpu<Path, T>(a.actor);
  refresh<Path>(a.critics, a.critics.nets);
  refresh<Path>(a.critics, a.critics.targets);
  for (int64_t k = 0; k < a.draws.updates; ++k) {
    const int64_t* rows;
    result.draw_fault = draw_rows<Path>(a.draws, k, rows);
    if (result.draw_fault != DrawFault::none) {
      result.failure = SoftResult::draw;
    } else {
      gather_transitions<Path>(a.critics, a.draws, rows, a.observations);
      result.failure = update(k, result);
    }
    if (result.failure == SoftResult::none) {
      note_errors<Path>(a.draws, k, a.critics.td);
      continue;
    }
    exchange_all(a, true);
    take_back_errors<Path>(a.draws, k);
    break;
  }
  return result;
}

}  // namespace
}  // namespace optix_fast
