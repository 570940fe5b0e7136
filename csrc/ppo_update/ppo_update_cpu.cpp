#include "ppo_update.h"

#include "mlp/trained.h"
#include "tanh_normal/log_std.h"

namespace optix_fast {
namespace {

template <typename T>
void gather(const PpoUpdateArgs<T>& a, const int64_t* order, int64_t n) {
  const Minibatch<T>& b = a.batch;
  const int64_t stride = padded<T>(a.features), width = a.loss.actions_width;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t row = order[i];
    copy(a.observations + row * a.features, a.features, b.observations + i * stride);
    b.old_log_probs[i] = a.old_log_probs[row];
    b.old_values[i] = a.values[row];
    b.advantages[i] = a.advantages[row];
    b.returns[i] = a.returns[row];
    if (a.loss.kind != PolicyKind::normal) {
      copy(a.discrete_actions + row * a.components, a.components, b.discrete_actions + i * a.components);
      if (a.action_mask != nullptr) copy(a.action_mask + row * width, width, b.action_mask + i * width);
    } else {
      copy(a.continuous_actions + row * width, width, b.continuous_actions + i * width);
    }
  }
}

template <typename T>
struct Input {
  const T* data;
  int64_t stride;
};

// What actor and critic stacks see.
template <typename T>
Input<T> trunk_output(const PpoUpdateArgs<T>& a) {
  if (a.trunk.n == 0) return {a.batch.observations, padded<T>(a.features)};
  return {a.trunk.last().output, a.trunk.last().stride};
}

// Network outputs → the distribution's parameters and the values, without the padding of rows.
template <typename T>
void read_outputs(const PpoUpdateArgs<T>& a, int64_t n) {
  const Minibatch<T>& b = a.batch;
  const Layer<T>& policy = a.actor.last();
  const int64_t width = a.loss.actions_width;
  for (int64_t i = 0; i < n; ++i) {
    const T* out = policy.output + i * policy.stride;
    b.values[i] = a.critic.last().output[i * a.critic.last().stride];
    if (a.loss.kind != PolicyKind::normal) {
      copy(out, width, b.params + i * width);
      continue;
    }
    T* params = b.params + i * 2 * width;
    copy(out, width, params);
    for (int64_t j = 0; j < width; ++j) {
      params[width + j] = clamped_log_std(a.log_std != nullptr ? a.log_std[j] : out[width + j]);
    }
  }
}

// The way back.
template <typename T>
void write_output_gradients(const PpoUpdateArgs<T>& a, int64_t n) {
  const Minibatch<T>& b = a.batch;
  const Layer<T>& policy = a.actor.last();
  const int64_t width = a.loss.actions_width;
  for (int64_t i = 0; i < n; ++i) {
    b.grad_critic[i * a.critic.last().stride] = b.grad_values[i];
    T* by_output = b.grad_actor + i * policy.stride;
    if (a.loss.kind != PolicyKind::normal) {
      copy(b.grad_params + i * width, width, by_output);
      continue;
    }
    const T* gradient = b.grad_params + i * 2 * width;
    copy(gradient, width, by_output);
    if (a.log_std != nullptr) continue;
    const T* log_std = policy.output + i * policy.stride + width;
    for (int64_t j = 0; j < width; ++j)
      by_output[width + j] = inside_log_std(log_std[j]) ? gradient[width + j] : T(0);
  }
  if (a.log_std == nullptr) return;
  for (int64_t j = 0; j < width; ++j) {
    T sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += b.grad_params[i * 2 * width + width + j];
    a.grad_log_std[j] = inside_log_std(a.log_std[j]) ? sum : T(0);
  }
}

// The trunk, then actor and critic; the copies of the weights first.
template <SimdPath Path, typename T>
void forward(const PpoUpdateArgs<T>& a, int64_t n) {
  stack_refresh_cpu<Path, T>(a.trunk);
  stack_forward_cpu<Path, T>(a.trunk, a.batch.observations, padded<T>(a.features), n);
  const Input<T> shared = trunk_output(a);
  side_by_side(a.actor, n, [&](int part) {
    const Stack<T>& stack = part == 0 ? a.actor : a.critic;
    stack_refresh_cpu<Path, T>(stack);
    stack_forward_cpu<Path, T>(stack, shared.data, shared.stride, n);
  });
}

template <SimdPath Path, typename T>
void backward(const PpoUpdateArgs<T>& a, int64_t n) {
  const Minibatch<T>& b = a.batch;
  const Input<T> shared = trunk_output(a);
  side_by_side(a.actor, n, [&](int part) {
    stack_backward_cpu<Path, T>(part == 0 ? a.actor : a.critic, a.scratch[part], shared.data, shared.stride,
                                n, part == 0 ? b.grad_actor : b.grad_critic, b.grad_trunk[part]);
  });
  if (a.trunk.n == 0) return;
  using S = Simd<T>;
  for (int64_t i = 0; i < n * shared.stride; i += S::lanes) {
    S::store(b.grad_trunk[0] + i, S::load(b.grad_trunk[0] + i) + S::load(b.grad_trunk[1] + i));
  }
  stack_backward_cpu<Path, T>(a.trunk, a.scratch[0], b.observations, padded<T>(a.features), n,
                              b.grad_trunk[0], nullptr);
}

template <typename T>
PpoLossArgs<T> loss_args(const PpoUpdateArgs<T>& a, int64_t n, T* loss, float* stats) {
  const Minibatch<T>& b = a.batch;
  PpoLossArgs<T> args = a.loss;
  args.batch = n;
  args.params = b.params;
  args.discrete_actions = b.discrete_actions;
  args.continuous_actions = b.continuous_actions;
  args.action_mask = a.action_mask == nullptr ? nullptr : b.action_mask;
  args.old_log_probs = b.old_log_probs;
  args.advantages = b.advantages;
  args.values = b.values;
  args.returns = b.returns;
  args.old_values = b.old_values;
  args.scratch = b.loss_scratch;
  args.loss = loss;
  args.stats = stats;
  args.grad_params = b.grad_params;
  args.grad_values = b.grad_values;
  return args;
}

// One minibatch; false where it ended the call.
template <SimdPath Path, typename T>
bool minibatch_step(const PpoUpdateArgs<T>& a, const int64_t* order, int64_t n, PpoUpdateResult& result) {
  gather(a, order, n);
  forward<Path>(a, n);
  read_outputs(a, n);
  T loss;
  float* stats = a.stats;
  const PpoLossFault fault = ppo_loss_cpu<Path, T>(loss_args(a, n, &loss, stats));
  if (fault.kind != PpoLossFault::none) {
    result.failure = PpoUpdateResult::data;
    result.fault = fault;
    result.fault.row = order[fault.row];
    return false;
  }
  bool all_finite = finite(loss);
  for (int i = 0; i < kPpoStatistics; ++i) all_finite = all_finite && finite(stats[i]);
  if (!all_finite) {
    result.failure = PpoUpdateResult::loss;
    return false;
  }
  write_output_gradients(a, n);
  backward<Path>(a, n);
  if (!clipped_step<Path>(a.trained, a.max_grad_norm, 0.0)) {
    result.failure = PpoUpdateResult::gradient;
    return false;
  }
  ++result.updates;
  for (int i = 0; i < kPpoStatistics; ++i) result.sums[i] += stats[i];
  return !(stats[3] > kKlStop * a.target_kl);
}

}  // namespace

template <SimdPath Path, typename T>
PpoUpdateResult ppo_update_cpu(const PpoUpdateArgs<T>& a) {
  PpoUpdateResult result;
  const auto exchange = [&](bool restore) {
    exchange_saved(a.trained, restore);
    for (const Stack<T>* stack : {&a.trunk, &a.actor, &a.critic}) exchange_statistics(*stack, restore);
  };
  exchange(false);
  for (int64_t epoch = 0; epoch < a.epochs; ++epoch) {
    const int64_t* order = a.permutations + epoch * a.rows;
    int64_t n = 0;
    for (int64_t at = 0; at < a.rows; at += n) {
      n = a.rows - at < a.minibatch_size ? a.rows - at : a.minibatch_size;
      if (a.joins_last_row && a.rows - at == n + 1) ++n;
      if (minibatch_step<Path>(a, order + at, n, result)) continue;
      if (result.failure != PpoUpdateResult::none) exchange(true);
      return result;
    }
  }
  return result;
}

template PpoUpdateResult ppo_update_cpu<kPath, float>(const PpoUpdateArgs<float>&);
template PpoUpdateResult ppo_update_cpu<kPath, double>(const PpoUpdateArgs<double>&);

}  // namespace optix_fast
