// The steps of critics.h. For the kernel files only.
#pragma once

#include "critics.h"
#include "mlp/trained.h"

namespace optix_fast {
namespace {

template <typename T>
int64_t input_stride(const Critics<T>& c) {
  return padded<T>(c.features + c.width);
}

// The columns of a critic's input gradient begin here: where the cache line with the first action begins.
template <typename T>
int64_t action_line(const Critics<T>& c) {
  return c.features - c.features % padded<T>(1);
}

template <typename T>
void copy_columns(const T* from, int64_t from_stride, int64_t rows, int64_t columns, T* to,
                  int64_t to_stride) {
  for (int64_t i = 0; i < rows; ++i) {
    __builtin_memcpy(to + i * to_stride, from + i * from_stride, columns * sizeof(T));
  }
}

// [B, A], densely, behind the observations of `input`.
template <typename T>
void put_actions(const Critics<T>& c, int64_t batch, const T* actions, T* input) {
  copy_columns(actions, c.width, batch, c.width, input + c.features, input_stride(c));
}

// The transitions in `rows`: s and s' into `observations` [2B, padded(D)], and into the critics' inputs, with
// the action taken.
template <SimdPath Path, typename T>
void gather_transitions(const Critics<T>& c, const Draws<T>& d, const int64_t* rows, T* observations) {
  const int64_t stride = padded<T>(c.features);
  ReplayMinibatch<T> batch{};
  batch.observations = observations;
  batch.next_observations = observations + d.batch * stride;
  batch.observations_stride = batch.next_stride = stride;
  batch.actions = c.taken + c.features;
  batch.actions_stride = input_stride(c);
  gather_rows<Path>(d, rows, batch);
  for (T* input : {c.taken, c.chosen}) {
    copy_columns(observations, stride, d.batch, c.features, input, input_stride(c));
  }
  copy_columns(batch.next_observations, stride, d.batch, c.features, c.next, input_stride(c));
}

template <typename T>
T q_of(const Stack<T>& critic, int64_t row) {
  return critic.last().output[row * critic.last().stride];
}

// min_i Q_i. A NaN stays.
template <typename T>
T least_of(const Stack<T>* critics, int n, int64_t row) {
  T least = q_of(critics[0], row);
  for (int i = 1; i < n; ++i) {
    const T q = q_of(critics[i], row);
    if (q < least || q != q) least = q;
  }
  return least;
}

// The same with its derivative by each Q_i, in c.by_value: those that are equal have equal shares.
template <typename T>
T share_least(const Critics<T>& c, int64_t row) {
  const T least = least_of(c.nets, c.n, row);
  int equal = 0;
  for (int i = 0; i < c.n; ++i) equal += q_of(c.nets[i], row) == least;
  for (int i = 0; i < c.n; ++i) {
    c.by_value[i][row] = q_of(c.nets[i], row) == least ? T(1) / static_cast<T>(equal) : T(0);
  }
  return least;
}

template <SimdPath Path, typename T>
void forward_critic(const Critics<T>& c, const Stack<T>& net, const T* input, int64_t rows) {
  stack_forward_cpu<Path, T>(net, input, input_stride(c), rows);
}

// work(i) for each critic, at the same time where a pass of `rows` is long.
template <typename T, typename Work>
void for_each_critic(const Critics<T>& c, int64_t rows, const Work& work) {
  side_by_side(c.nets[0], rows, work, c.n);
}

// The transposed weights, from the parameters as they are now.
template <SimdPath Path, typename T>
void refresh(const Critics<T>& c, const Stack<T>* nets) {
  for (int i = 0; i < c.n; ++i) stack_refresh_cpu<Path, T>(nets[i]);
}

// Q̄_i of c.next and Q_i of c.taken.
template <SimdPath Path, typename T>
void forward_critics(const Critics<T>& c, int64_t batch) {
  for_each_critic(c, batch, [&](int i) {
    forward_critic<Path>(c, c.targets[i], c.next, batch);
    forward_critic<Path>(c, c.nets[i], c.taken, batch);
  });
}

// Of factor·½·Σ_i mean w·(Q_i(s, a) − y)², M = 1: the value, its gradients by the values, and the TD errors.
template <typename T>
CriticStep squared_errors(const Critics<T>& c, const Draws<T>& d, double factor) {
  const float* weights = importance_weights(d);
  CriticStep step;
  const T share = static_cast<T>(factor) / static_cast<T>(d.batch), part = T(1) / static_cast<T>(c.n);
  for (int i = 0; i < c.n; ++i) {
    const Stack<T>& net = c.nets[i];
    for (int64_t row = 0; row < d.batch; ++row) {
      const T q = q_of(net, row), error = q - c.y[row];
      const T weighted = weights == nullptr ? error : static_cast<T>(weights[row]) * error;
      step.mean_q += static_cast<double>(q);
      step.loss += static_cast<double>(weighted) * static_cast<double>(error);
      c.grad_value[i][row * net.last().stride] = weighted * share;
      const T own = part * (error < 0 ? -error : error);
      c.td[row] = i == 0 ? own : c.td[row] + own;
    }
  }
  step.loss *= 0.5 * factor / static_cast<double>(d.batch);
  step.mean_q /= static_cast<double>(c.n * d.batch);
  return step;
}

// Parameters, optimizer state, targets and running statistics to where they are kept, or back.
template <typename T>
void exchange_critics(const Critics<T>& c, bool restore) {
  exchange_saved(c.trained, restore);
  for (int i = 0; i < c.n; ++i) {
    for (const Stack<T>* net : {&c.nets[i], &c.targets[i]}) exchange_statistics(*net, restore);
  }
}

// What the targets take over beside parameters, whenever those move.
template <typename T>
void copy_critic_statistics(const Critics<T>& c) {
  for (int i = 0; i < c.n; ++i) copy_statistics(c.nets[i], c.targets[i]);
}

// Backward through all critics, from c.grad_value of the first `rows` rows of c.taken, and the optimizer's step;
// with a positive tau the targets after it. What was made of the weights before (refresh) is out of date then.
template <SimdPath Path, typename T>
CriticStep descend_critics(const Critics<T>& c, int64_t rows, CriticStep step, double max_grad_norm,
                           double tau) {
  for_each_critic(c, rows, [&](int i) {
    stack_backward_cpu<Path, T>(c.nets[i], c.scratch[i], c.taken, input_stride(c), rows, c.grad_value[i],
                                nullptr);
  });
  if (!finite(step.loss)) {
    step.failure = CriticStep::loss_not_finite;
  } else if (!clipped_step<Path>(c.trained, max_grad_norm, tau)) {
    step.failure = CriticStep::gradient_not_finite;
  }
  return step;
}

// The gradient by the actions that goes through critic i, given the gradient by each of its outputs,
// c.by_value[i]. Rows where that is zero are left out, unless they depend on the others: what remains, so many
// rows as are returned, is moved together first. The outputs of its layers are used up.
template <SimdPath Path, typename T>
int64_t action_gradient(const Critics<T>& c, int64_t batch, int i) {
  const Stack<T>& net = c.nets[i];
  const int64_t stride = net.last().stride;
  const bool needs_all = depends_on_batch(net);
  int64_t n = 0;
  for (int64_t row = 0; row < batch; ++row) {
    const T by_value = c.by_value[i][row];
    if (by_value == 0 && !needs_all) continue;
    T* grad = c.grad_value[i] + n * stride;
    for (int64_t k = 0; k < stride; ++k) grad[k] = k < c.outputs ? by_value : T(0);
    c.rows[i][n++] = row;
  }
  if (n == 0) return 0;
  if (n < batch) stack_take_rows_cpu<Path, T>(net, c.rows[i], n);
  stack_input_gradient_cpu<Path, T>(net, c.scratch[i], n, c.grad_value[i], action_line(c), c.grad_input[i]);
  return n;
}

// Adds the n rows of action_gradient to grad_action [B, A].
template <typename T>
void add_action_gradient(const Critics<T>& c, int i, int64_t n) {
  const int64_t from = action_line(c), stride = input_stride(c) - from;
  for (int64_t k = 0; k < n; ++k) {
    const T* gradient = c.grad_input[i] + k * stride + (c.features - from);
    T* sum = c.grad_action + c.rows[i][k] * c.width;
    for (int64_t j = 0; j < c.width; ++j) sum[j] += gradient[j];
  }
}

}  // namespace
}  // namespace optix_fast
