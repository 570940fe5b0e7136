#include "crossq_update.h"

#include "learners/squashed_policy_cpu.h"

namespace optix_fast {
namespace {

template <typename T>
void replace_not_finite(const CrossqArgs<T>& a) {
  const Critics<T>& c = a.critics;
  const int64_t batch = a.draws.batch, stride = padded<T>(c.features);
  for (int64_t i = 0; i < batch; ++i) {
    const T* now = a.observations + i * stride;
    T* then = a.observations + (batch + i) * stride;
    for (int64_t j = 0; j < c.features; ++j) {
      if (!finite(then[j])) then[j] = c.next[i * input_stride(c) + j] = now[j];
    }
  }
}

// The next masks of `to` are those behind the last ones of `from`, which has the same layers.
template <typename T>
void count_on(const Stack<T>& from, const Stack<T>& to) {
  for (int64_t i = 0; i < from.n; ++i) to.layers[i].passes = from.layers[i].passes;
}

// The critics' step, from one pass over taken and next.
template <SimdPath Path, typename T>
CriticStep joint_critic_step(const CrossqArgs<T>& a, T alpha) {
  const Critics<T>& c = a.critics;
  const int64_t batch = a.draws.batch;
  for_each_critic(c, 2 * batch, [&](int i) { forward_critic<Path>(c, c.nets[i], c.taken, 2 * batch); });
  set_least_targets(a, c.nets, batch, alpha);
  bool needs_all = false;
  for (int i = 0; i < c.n; ++i) {
    const int64_t half = batch * c.nets[i].last().stride;
    __builtin_memset(c.grad_value[i] + half, 0, half * sizeof(T));
    needs_all = needs_all || depends_on_batch(c.nets[i]);
  }
  const CriticStep step = squared_errors(c, a.draws, 1.0);
  return descend_critics<Path>(c, needs_all ? 2 * batch : batch, step, a.max_grad_norm, 0.0);
}

// judged: a, with critics whose batch norms evaluate.
template <SimdPath Path, typename T>
SoftResult::Failure delayed_step(const CrossqArgs<T>& a, const SoftArgs<T>& judged, const T* noise, T alpha,
                                 SoftResult& result) {
  const Critics<T>& c = judged.critics;
  const int64_t batch = a.draws.batch;
  stack_forward_cpu<Path, T>(a.actor, a.observations, padded<T>(c.features), batch);
  sample(a, 0, noise, a.now, c.chosen);
  const double alpha_loss = temperature_step<Path>(a, mean(a.now.log_prob, batch));
  if (!finite(alpha_loss)) return SoftResult::temperature_loss;
  for (int i = 0; i < c.n; ++i) count_on(a.critics.nets[i], c.nets[i]);
  for_each_critic(c, batch, [&](int i) { forward_critic<Path>(c, c.nets[i], c.chosen, batch); });
  for (int i = 0; i < c.n; ++i) count_on(c.nets[i], a.critics.nets[i]);
  const auto value = [&](int64_t row) { return share_least(c, row); };
  const SoftResult::Failure failure = actor_step<Path>(judged, alpha, result, value);
  if (failure != SoftResult::none) return failure;
  stack_refresh_cpu<Path, T>(a.actor);
  result.sums[2] += alpha_loss;
  return SoftResult::none;
}

template <SimdPath Path, typename T>
SoftResult::Failure one_update(const CrossqArgs<T>& a, const SoftArgs<T>& judged, int64_t k,
                               SoftResult& result) {
  const Critics<T>& c = a.critics;
  const int64_t batch = a.draws.batch, stride = padded<T>(c.features);
  const T* noise = a.noise + 2 * k * batch * c.width;
  const T alpha = temperature_of(a);
  replace_not_finite(a);
  count_on(a.actor, a.evaluated_actor);
  stack_forward_cpu<Path, T>(a.evaluated_actor, a.observations + batch * stride, stride, batch);
  count_on(a.evaluated_actor, a.actor);
  sample(a, 0, noise, a.next, c.next);
  const CriticStep step = joint_critic_step<Path>(a, alpha);
  if (step.failure != CriticStep::none) return failure_of(step);
  refresh<Path>(c, c.nets);
  if ((a.updates_before + k + 1) % a.policy_delay == 0) {
    const SoftResult::Failure failure = delayed_step<Path>(a, judged, noise + batch * c.width, alpha, result);
    if (failure != SoftResult::none) return failure;
  }
  result.sums[0] += step.loss;
  result.sums[3] += step.mean_q;
  return SoftResult::none;
}

}  // namespace

template <SimdPath Path, typename T>
SoftResult crossq_update_cpu(const CrossqArgs<T>& a) {
  SoftArgs<T> judged = a;
  for (int i = 0; i < a.critics.n; ++i) judged.critics.nets[i] = a.evaluated_nets[i];
  return soft_updates<Path>(
      a, [&](int64_t k, SoftResult& result) { return one_update<Path>(a, judged, k, result); });
}

template SoftResult crossq_update_cpu<kPath, float>(const CrossqArgs<float>&);
template SoftResult crossq_update_cpu<kPath, double>(const CrossqArgs<double>&);

}  // namespace optix_fast
