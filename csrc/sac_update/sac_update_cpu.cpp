#include "sac_update.h"

#include "learners/twin_critics_cpu.h"
#include "simd_math.h"
#include "tanh_normal/log_std.h"

namespace optix_fast {
namespace {

constexpr double kHalfLog2Pi = 0.91893853320467274;

// Actions from the policy's outputs at rows first … first + B, also written behind the observations of
// `input`.
template <typename T>
void sample(const SacUpdateArgs<T>& a, int64_t first, const T* noise, const PolicySample<T>& to, T* input) {
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

// −log α·mean(log π + target entropy), and a step on it.
template <SimdPath Path, typename T>
double temperature_step(const SacUpdateArgs<T>& a, double mean_log_prob) {
  const double gradient = -(mean_log_prob + a.target_entropy);
  const double loss = static_cast<double>(*a.log_alpha) * gradient;
  *a.grad_log_alpha = static_cast<T>(gradient);
  if (finite(loss)) clipped_step<Path>(a.temperature, kInfinity, 0.0);
  return loss;
}

template <typename T>
void set_targets(const SacUpdateArgs<T>& a, T alpha) {
  const Draws<T>& d = a.draws;
  for (int64_t i = 0; i < d.batch; ++i) {
    const T value = least_of(a.critics.targets, i).value - alpha * a.work.next.log_prob[i];
    a.critics.y[i] = d.rewards[i] + (d.discounts[i] > T(0) ? d.discounts[i] * value : T(0));
  }
}

// Gradients of mean(α·log π − min Q) by the policy's outputs.
template <typename T>
void set_policy_gradient(const SacUpdateArgs<T>& a, T alpha) {
  const SacWork<T>& w = a.work;
  const Layer<T>& policy = a.actor.last();
  const int64_t width = a.critics.width;
  const T share = T(1) / static_cast<T>(a.draws.batch);
  for (int64_t i = 0; i < a.draws.batch; ++i) {
    T* by_output = w.grad_policy + i * policy.stride;
    const T* log_std = policy.output + i * policy.stride + width;
    for (int64_t j = 0; j < width; ++j) {
      const int64_t at = i * width + j;
      const T by_mean = alpha * T(2) * w.now.action[at] - a.critics.grad_action[at] * w.now.slope[at];
      by_output[j] = share * by_mean;
      by_output[width + j] = inside_log_std(log_std[j]) ? share * (by_mean * w.now.spread[at] - alpha) : T(0);
    }
  }
}

// The transposed weights of the critics, which have just stepped, and the actor's step.
template <SimdPath Path, typename T>
bool actor_step(const SacUpdateArgs<T>& a, T alpha, SacUpdateResult& result) {
  const SacWork<T>& w = a.work;
  const TwinCritics<T>& c = a.critics;
  const int64_t batch = a.draws.batch;
  side_by_side(c.nets[0], batch, [&](int i) {
    for (const Stack<T>* net : {&c.nets[i], &c.targets[i]}) stack_refresh_cpu<Path, T>(*net);
    forward_critic<Path>(c, c.nets[i], c.chosen, batch);
  });
  double loss = 0.0;
  for (int64_t row = 0; row < batch; ++row) {
    const Least<T> least = least_of(c.nets, row);
    w.shares[0][row] = least.share;
    w.shares[1][row] = T(1) - least.share;
    loss += static_cast<double>(alpha * w.now.log_prob[row] - least.value);
  }
  loss /= static_cast<double>(batch);
  if (!finite(loss)) {
    result.failure = SacUpdateResult::actor_loss;
    return false;
  }
  __builtin_memset(c.grad_action, 0, batch * c.width * sizeof(T));
  int64_t n[2];
  side_by_side(c.nets[0], batch, [&](int i) { n[i] = action_gradient<Path>(c, batch, i, w.shares[i]); });
  for (int i = 0; i < 2; ++i) add_action_gradient(c, i, n[i]);
  set_policy_gradient(a, alpha);
  stack_backward_cpu<Path, T>(a.actor, a.scratch, w.observations, padded<T>(c.features), batch, w.grad_policy,
                              nullptr);
  if (!clipped_step<Path>(a.trained_actor, a.max_grad_norm, 0.0)) {
    result.failure = SacUpdateResult::actor_gradient;
    return false;
  }
  result.sums[1] += loss;
  return true;
}

// One update; false where it ended the call. The transposed weights are those of the parameters, before and
// after.
template <SimdPath Path, typename T>
bool update_step(const SacUpdateArgs<T>& a, int64_t update, SacUpdateResult& result) {
  const SacWork<T>& w = a.work;
  const TwinCritics<T>& c = a.critics;
  const int64_t batch = a.draws.batch;
  const T* noise = a.noise + 2 * update * batch * c.width;
  const int64_t* rows;
  result.draw_fault = draw_rows<Path>(a.draws, update, rows);
  if (result.draw_fault != DrawFault::none) {
    result.failure = SacUpdateResult::draw;
    return false;
  }
  gather_transitions<Path>(c, a.draws, rows, w.observations);
  stack_forward_cpu<Path, T>(a.actor, w.observations, padded<T>(c.features), 2 * batch);
  sample(a, batch, noise, w.next, c.next);
  sample(a, 0, noise + batch * c.width, w.now, c.chosen);
  const T alpha = static_cast<T>(__builtin_exp(static_cast<double>(*a.log_alpha)));
  const double log_prob = mean(w.now.log_prob, batch);
  const double alpha_loss = temperature_step<Path>(a, log_prob);
  if (!finite(alpha_loss)) {
    result.failure = SacUpdateResult::temperature_loss;
    return false;
  }
  forward_critics<Path>(c, batch);
  set_targets(a, alpha);
  const CriticStep step = critic_step<Path>(c, a.draws, 1.0, a.max_grad_norm, a.tau);
  if (step.failure != CriticStep::none) {
    result.failure = step.failure == CriticStep::loss_not_finite ? SacUpdateResult::critic_loss
                                                                 : SacUpdateResult::critic_gradient;
    return false;
  }
  if (!actor_step<Path>(a, alpha, result)) return false;
  stack_refresh_cpu<Path, T>(a.actor);
  note_errors<Path>(a.draws, update, c.td);
  result.sums[0] += step.loss;
  result.sums[2] += alpha_loss;
  result.sums[3] += step.mean_q;
  result.sums[4] -= log_prob;
  return true;
}

template <typename T>
void exchange_all(const SacUpdateArgs<T>& a, bool restore) {
  for (const Trained<T>* trained : {&a.trained_actor, &a.critics.trained, &a.temperature}) {
    exchange_saved(*trained, restore);
  }
}

}  // namespace

template <SimdPath Path, typename T>
SacUpdateResult sac_update_cpu(const SacUpdateArgs<T>& a) {
  SacUpdateResult result;
  exchange_all(a, false);
  stack_refresh_cpu<Path, T>(a.actor);
  refresh<Path>(a.critics.nets);
  refresh<Path>(a.critics.targets);
  for (int64_t update = 0; update < a.draws.updates; ++update) {
    if (update_step<Path>(a, update, result)) continue;
    exchange_all(a, true);
    take_back_errors<Path>(a.draws, update);
    break;
  }
  return result;
}

template SacUpdateResult sac_update_cpu<kPath, float>(const SacUpdateArgs<float>&);
template SacUpdateResult sac_update_cpu<kPath, double>(const SacUpdateArgs<double>&);

}  // namespace optix_fast
