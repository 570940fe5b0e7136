#include "ppo_loss.h"

#include "policies.h"

namespace optix_fast {
namespace {

// Normalised A = (A − shift)·scale; the identity where nothing is to be normalised.
struct Normalisation {
  double shift = 0.0, scale = 1.0;
};

template <typename S, typename T>
Normalisation normalisation(const PpoLossArgs<T>& a) {
  if (!a.normalize_advantages || a.batch < 2) return {};
  BatchSum<S> sum, squares;
  each_block<S>(a.batch, [&](int64_t row, size_t rows, auto valid) {
    sum.add(S::load_first(a.advantages + row, rows), valid);
  });
  const double mean = sum.total() / a.batch;
  each_block<S>(a.batch, [&](int64_t row, size_t rows, auto valid) {
    const auto distance = S::load_first(a.advantages + row, rows) - static_cast<T>(mean);
    squares.add(distance * distance, valid);
  });
  const double std = __builtin_sqrt(squares.total() / (a.batch - 1));
  return {mean, 1.0 / (std + 1e-8)};
}

template <typename S, typename T>
struct Value {
  typename S::Vec loss, gradient;
};

// The value loss of each sample and its derivative by V. Where both squares of "max" are equal, each gets
// half of the gradient, as torch.maximum divides it.
template <typename S, typename T>
Value<S, T> value_loss(const PpoLossArgs<T>& a, int64_t row, size_t rows) {
  using Vec = typename S::Vec;
  const Vec value = S::load_first(a.values + row, rows);
  const Vec target = S::load_first(a.returns + row, rows);
  const Vec error = value - target;
  const Vec plain = error * error;
  if (a.value_clip_mode == ValueClip::none) return {plain, T(2) * error};
  const Vec old = S::load_first(a.old_values + row, rows);
  const Vec limit = S::broadcast(static_cast<T>(a.value_clip));
  const Vec change = value - old;
  const Vec limited = S::select(change > limit, limit, S::select(change < -limit, -limit, change));
  const Vec clipped_error = old + limited - target;
  const Vec clipped = clipped_error * clipped_error;
  const Vec zero = S::broadcast(T(0));
  const Vec clipped_gradient = S::select((change > limit) | (change < -limit), zero, T(2) * clipped_error);
  if (a.value_clip_mode == ValueClip::clipped) return {clipped, clipped_gradient};
  const Vec gradient = S::select(clipped > plain, clipped_gradient, T(2) * error);
  const Vec half = T(0.5) * (clipped_gradient + T(2) * error);
  return {S::max(clipped, plain), S::select(clipped == plain, half, gradient)};
}

template <typename Policy, typename S, typename T>
PpoLossFault run(const PpoLossArgs<T>& a) {
  using Vec = typename S::Vec;
  const double batch = static_cast<double>(a.batch);
  const Normalisation advantage_of = normalisation<S>(a);
  Policy policy(a);

  const auto sum_entropies = [&](auto valid) {
    for (int64_t k = 0; k < policy.components(); ++k) {
      policy.component(k).sum.add(policy.component(k).entropy, valid);
    }
  };
  if (a.entropy_floor != nullptr) {
    each_block<S>(a.batch, [&](int64_t row, size_t rows, auto valid) {
      policy.forward(row, rows);
      sum_entropies(valid);
    });
  }
  for (int64_t k = 0; k < policy.components(); ++k) {
    auto& component = policy.component(k);
    // What one nat of mean entropy takes off the loss.
    double weight = a.entropy_coef[k];
    if (a.entropy_floor != nullptr && component.sum.total() / batch < a.entropy_floor[k]) {
      weight += a.entropy_floor_coef[k];
    }
    component.by_entropy = S::broadcast(static_cast<T>(-weight / batch));
    component.sum = BatchSum<S>{};
  }

  const Vec zero = S::broadcast(T(0));
  const Vec one = S::broadcast(T(1));
  const Vec epsilon = S::broadcast(static_cast<T>(a.clip_ratio));
  const Vec low = S::broadcast(static_cast<T>(1.0 - a.clip_ratio));
  const Vec high = S::broadcast(static_cast<T>(1.0 + a.clip_ratio));
  const T per_sample = static_cast<T>(-1.0 / batch);
  const T value_scale = static_cast<T>(a.vf_coef / batch);
  const T shift = static_cast<T>(advantage_of.shift), scale = static_cast<T>(advantage_of.scale);

  BatchSum<S> surrogates, values, kl, clipped_count;
  each_block<S>(a.batch, [&](int64_t row, size_t rows, auto valid) {
    const Vec log_ratio = policy.forward(row, rows) - S::load_first(a.old_log_probs + row, rows);
    const Vec ratio = exp<S>(log_ratio);
    const Vec advantage = (S::load_first(a.advantages + row, rows) - shift) * scale;
    const Vec plain = ratio * advantage;
    const auto outside = (ratio < low) | (ratio > high);
    const Vec clipped = S::select(ratio < low, low, S::select(ratio > high, high, ratio)) * advantage;
    // A clipped sample pulls at the policy no more. (A NaN fails the comparison and stays visible.)
    const auto stopped = outside & (clipped < plain);
    surrogates.add(S::min(clipped, plain), valid);
    sum_entropies(valid);
    kl.add((ratio - one) - log_ratio, valid);
    const Vec distance = S::max(ratio - one, one - ratio);
    clipped_count.add(S::select(distance > epsilon, one, zero), valid);
    if (a.grad_params != nullptr) {
      policy.backward(row, rows, S::select(stopped, zero, plain) * per_sample);
    }
    const Value<S, T> value = value_loss<S>(a, row, rows);
    values.add(value.loss, valid);
    if (a.grad_values != nullptr) S::store_first(a.grad_values + row, value.gradient * value_scale, rows);
  });

  const double policy_loss = -surrogates.total() / batch;
  const double mean_value_loss = values.total() / batch;
  double loss = policy_loss + a.vf_coef * mean_value_loss;
  double total_entropy = 0.0;
  for (int64_t k = 0; k < policy.components(); ++k) {
    const double entropy = policy.component(k).sum.total() / batch;
    total_entropy += entropy;
    loss -= a.entropy_coef[k] * entropy;
    if (a.entropy_floor != nullptr && entropy < a.entropy_floor[k]) {
      loss += a.entropy_floor_coef[k] * (a.entropy_floor[k] - entropy);
    }
    a.stats[kPpoStatistics + k] = static_cast<float>(entropy);
  }
  *a.loss = static_cast<T>(loss);
  const double stats[] = {policy_loss, mean_value_loss, total_entropy, kl.total() / batch,
                          clipped_count.total() / batch};
  for (int i = 0; i < kPpoStatistics; ++i) a.stats[i] = static_cast<float>(stats[i]);
  return policy.fault();
}

}  // namespace

template <SimdPath Path, typename T>
PpoLossFault ppo_loss_cpu(const PpoLossArgs<T>& args) {
  using S = Simd<T>;
  switch (args.kind) {
    case PolicyKind::normal:
      return run<Policy<S, false, true>, S>(args);
    case PolicyKind::hybrid:
      return run<Policy<S, true, true>, S>(args);
    default:
      return run<Policy<S, true, false>, S>(args);
  }
}

template PpoLossFault ppo_loss_cpu<kPath, float>(const PpoLossArgs<float>&);
template PpoLossFault ppo_loss_cpu<kPath, double>(const PpoLossArgs<double>&);

}  // namespace optix_fast
