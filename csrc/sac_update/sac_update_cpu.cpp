#include "sac_update.h"

#include "mlp/trained.h"
#include "simd_math.h"
#include "tanh_normal/log_std.h"

namespace optix_fast {
namespace {

constexpr double kHalfLog2Pi = 0.91893853320467274;

template <typename T>
int64_t input_stride(const SacUpdateArgs<T>& a) {
  return padded<T>(a.features + a.width);
}

// The columns of a critic's input gradient begin here: where the cache line with the first action begins.
template <typename T>
int64_t action_line(const SacUpdateArgs<T>& a) {
  return a.features - a.features % padded<T>(1);
}

template <typename T>
void copy_columns(const T* from, int64_t from_stride, int64_t rows, int64_t columns, T* to,
                  int64_t to_stride) {
  for (int64_t i = 0; i < rows; ++i) {
    __builtin_memcpy(to + i * to_stride, from + i * from_stride, columns * sizeof(T));
  }
}

template <SimdPath Path, typename T>
void gather(const SacUpdateArgs<T>& a, const int64_t* rows) {
  const SacWork<T>& w = a.work;
  const int64_t stride = padded<T>(a.features);
  ReplayMinibatch<T> batch{};
  batch.targets.n = a.batch;
  batch.targets.indices = rows;
  batch.targets.n_step = a.n_step;
  batch.targets.gamma = a.gamma;
  batch.targets.after = w.after;
  batch.targets.rewards = w.rewards;
  batch.targets.discounts = w.discounts;
  batch.observations = w.observations;
  batch.next_observations = w.observations + a.batch * stride;
  batch.observations_stride = batch.next_stride = stride;
  batch.actions = w.taken + a.features;
  batch.actions_stride = input_stride(a);
  replay_gather_cpu<Path, T>(a.replay, batch);
  for (T* input : {w.taken, w.chosen}) {
    copy_columns(w.observations, stride, a.batch, a.features, input, input_stride(a));
  }
  copy_columns(batch.next_observations, stride, a.batch, a.features, w.following, input_stride(a));
}

// Actions from the policy's outputs at rows first … first + B, also written behind the observations of
// `input`.
template <typename T>
void sample(const SacUpdateArgs<T>& a, int64_t first, const T* noise, const PolicySample<T>& to, T* input) {
  using S = Simd<T>;
  const int64_t width = a.width, n = a.batch * width;
  const Layer<T>& policy = a.actor.last();
  for (int64_t i = 0; i < a.batch; ++i) {
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
  for (int64_t i = 0; i < a.batch; ++i) {
    T sum = 0;
    for (int64_t j = 0; j < width; ++j) sum += to.terms[i * width + j];
    to.log_prob[i] = sum;
  }
  copy_columns(to.action, width, a.batch, width, input + a.features, input_stride(a));
}

template <typename T>
T q_of(const Stack<T>& critic, int64_t row) {
  return critic.last().output[row * critic.last().stride];
}

// min(Q_1, Q_2) and its derivative by Q_1. A NaN in either stays.
template <typename T>
struct Least {
  T value, share;
};

template <typename T>
Least<T> least_of(const Stack<T> (&twins)[2], int64_t row) {
  const T one = q_of(twins[0], row), other = q_of(twins[1], row);
  if (one < other) return {one, T(1)};
  if (other < one) return {other, T(0)};
  return {T(0.5) * (one + other), T(0.5)};
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

template <SimdPath Path, typename T>
void forward_twins(const SacUpdateArgs<T>& a, const Stack<T> (&twins)[2], const T* input) {
  for (const Stack<T>& net : twins) stack_forward_cpu<Path, T>(net, input, input_stride(a), a.batch);
}

template <typename T>
void set_targets(const SacUpdateArgs<T>& a, T alpha) {
  const SacWork<T>& w = a.work;
  for (int64_t i = 0; i < a.batch; ++i) {
    const T value = least_of(a.targets, i).value - alpha * w.next.log_prob[i];
    w.targets[i] = w.rewards[i] + (w.discounts[i] > T(0) ? w.discounts[i] * value : T(0));
  }
}

// Both critics: loss, gradients, step, and the targets after them.
template <SimdPath Path, typename T>
bool critic_step(const SacUpdateArgs<T>& a, SacUpdateResult& result) {
  const SacWork<T>& w = a.work;
  const float* weights = a.draws == nullptr ? nullptr : a.draws->weights;
  forward_twins<Path>(a, a.critics, w.taken);
  double loss = 0.0, values = 0.0;
  const T share = T(1) / static_cast<T>(a.batch);
  for (int i = 0; i < 2; ++i) {
    const Stack<T>& net = a.critics[i];
    for (int64_t row = 0; row < a.batch; ++row) {
      const T q = q_of(net, row), error = q - w.targets[row];
      const T weighted = weights == nullptr ? error : static_cast<T>(weights[row]) * error;
      values += static_cast<double>(q);
      loss += static_cast<double>(weighted) * static_cast<double>(error);
      w.grad_value[row * net.last().stride] = weighted * share;
      const T half = T(0.5) * (error < 0 ? -error : error);
      w.td[row] = i == 0 ? half : w.td[row] + half;
    }
    stack_backward_cpu<Path, T>(net, w.scratch, w.taken, input_stride(a), a.batch, w.grad_value, nullptr,
                                false);
  }
  loss *= 0.5 / static_cast<double>(a.batch);
  if (!finite(loss)) {
    result.failure = SacUpdateResult::critic_loss;
    return false;
  }
  if (!clipped_step<Path>(a.trained_critics, a.max_norm, a.tau)) {
    result.failure = SacUpdateResult::critic_gradient;
    return false;
  }
  result.sums[0] += loss;
  result.sums[3] += 0.5 * values / static_cast<double>(a.batch);
  return true;
}

// The part of ∂min_i Q_i/∂â that goes through one critic, added to grad_action; `shares`: ∂min/∂Q_i of each
// row. The outputs of its layers are used up.
template <SimdPath Path, typename T>
void add_action_gradient(const SacUpdateArgs<T>& a, const Stack<T>& net, const T* shares) {
  const SacWork<T>& w = a.work;
  int64_t n = 0;
  for (int64_t row = 0; row < a.batch; ++row) {
    if (shares[row] == 0) continue;
    w.grad_value[n * net.last().stride] = shares[row];
    w.rows[n++] = row;
  }
  if (n == 0) return;
  stack_take_rows_cpu<Path, T>(net, w.rows, n);
  const int64_t from = action_line(a), stride = input_stride(a) - from;
  stack_input_gradient_cpu<Path, T>(net, w.scratch, n, w.grad_value, from, w.grad_input);
  for (int64_t k = 0; k < n; ++k) {
    const T* gradient = w.grad_input + k * stride + (a.features - from);
    T* sum = w.grad_action + w.rows[k] * a.width;
    for (int64_t j = 0; j < a.width; ++j) sum[j] += gradient[j];
  }
}

// Gradients of mean(α·log π − min Q) by the policy's outputs.
template <typename T>
void set_policy_gradient(const SacUpdateArgs<T>& a, T alpha) {
  const SacWork<T>& w = a.work;
  const Layer<T>& policy = a.actor.last();
  const T share = T(1) / static_cast<T>(a.batch);
  for (int64_t i = 0; i < a.batch; ++i) {
    T* by_output = w.grad_policy + i * policy.stride;
    const T* log_std = policy.output + i * policy.stride + a.width;
    for (int64_t j = 0; j < a.width; ++j) {
      const int64_t at = i * a.width + j;
      const T by_mean = alpha * T(2) * w.now.action[at] - w.grad_action[at] * w.now.slope[at];
      by_output[j] = share * by_mean;
      by_output[a.width + j] =
          inside_log_std(log_std[j]) ? share * (by_mean * w.now.spread[at] - alpha) : T(0);
    }
  }
}

template <SimdPath Path, typename T>
bool actor_step(const SacUpdateArgs<T>& a, T alpha, SacUpdateResult& result) {
  const SacWork<T>& w = a.work;
  forward_twins<Path>(a, a.critics, w.chosen);
  double loss = 0.0;
  for (int64_t row = 0; row < a.batch; ++row) {
    const Least<T> least = least_of(a.critics, row);
    w.shares[0][row] = least.share;
    w.shares[1][row] = T(1) - least.share;
    loss += static_cast<double>(alpha * w.now.log_prob[row] - least.value);
  }
  loss /= static_cast<double>(a.batch);
  if (!finite(loss)) {
    result.failure = SacUpdateResult::actor_loss;
    return false;
  }
  __builtin_memset(w.grad_action, 0, a.batch * a.width * sizeof(T));
  for (int i = 0; i < 2; ++i) add_action_gradient<Path>(a, a.critics[i], w.shares[i]);
  set_policy_gradient(a, alpha);
  stack_backward_cpu<Path, T>(a.actor, w.scratch, w.observations, padded<T>(a.features), a.batch,
                              w.grad_policy, nullptr, false);
  if (!clipped_step<Path>(a.trained_actor, a.max_norm, 0.0)) {
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
  const T* noise = a.noise + 2 * update * a.batch * a.width;
  if (a.draws != nullptr && !draw_leaves<Path>(*a.draws, update)) {
    result.failure = SacUpdateResult::empty;
    return false;
  }
  if (a.draws != nullptr && !leaves_have_rows(*a.draws, update, a.replay.size)) {
    result.failure = SacUpdateResult::no_row;
    return false;
  }
  gather<Path>(a, (a.draws == nullptr ? a.indices : a.draws->drawn) + update * a.batch);
  stack_forward_cpu<Path, T>(a.actor, w.observations, padded<T>(a.features), 2 * a.batch);
  sample(a, a.batch, noise, w.next, w.following);
  sample(a, 0, noise + a.batch * a.width, w.now, w.chosen);
  const T alpha = static_cast<T>(__builtin_exp(static_cast<double>(*a.log_alpha)));
  const double log_prob = mean(w.now.log_prob, a.batch);
  const double alpha_loss = temperature_step<Path>(a, log_prob);
  if (!finite(alpha_loss)) {
    result.failure = SacUpdateResult::temperature_loss;
    return false;
  }
  forward_twins<Path>(a, a.targets, w.following);
  set_targets(a, alpha);
  if (!critic_step<Path>(a, result)) return false;
  for (int i = 0; i < 2; ++i) {
    stack_refresh_cpu<Path, T>(a.critics[i]);
    stack_refresh_cpu<Path, T>(a.targets[i]);
  }
  if (!actor_step<Path>(a, alpha, result)) return false;
  stack_refresh_cpu<Path, T>(a.actor);
  if (a.draws != nullptr) write_priorities<Path>(*a.draws, update, w.td);
  result.sums[2] += alpha_loss;
  result.sums[4] -= log_prob;
  return true;
}

template <typename T>
void exchange_all(const SacUpdateArgs<T>& a, bool restore) {
  for (const Trained<T>* trained : {&a.trained_actor, &a.trained_critics, &a.temperature}) {
    exchange_saved(*trained, restore);
  }
}

}  // namespace

template <SimdPath Path, typename T>
SacUpdateResult sac_update_cpu(const SacUpdateArgs<T>& a) {
  SacUpdateResult result;
  exchange_all(a, false);
  for (const Stack<T>* net : {&a.actor, &a.critics[0], &a.critics[1], &a.targets[0], &a.targets[1]}) {
    stack_refresh_cpu<Path, T>(*net);
  }
  for (int64_t update = 0; update < a.updates; ++update) {
    if (update_step<Path>(a, update, result)) continue;
    exchange_all(a, true);
    if (a.draws != nullptr) take_back_priorities<Path>(*a.draws, update);
    break;
  }
  return result;
}

template SacUpdateResult sac_update_cpu<kPath, float>(const SacUpdateArgs<float>&);
template SacUpdateResult sac_update_cpu<kPath, double>(const SacUpdateArgs<double>&);

}  // namespace optix_fast
