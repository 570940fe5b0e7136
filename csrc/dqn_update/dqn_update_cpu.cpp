#include "dqn_update.h"

#include "mlp/trained.h"

namespace optix_fast {
namespace {

template <SimdPath Path, typename T>
void gather(const DqnUpdateArgs<T>& a, const int64_t* rows) {
  ReplayMinibatch<T> batch{};
  batch.observations = a.observations;
  batch.next_observations = a.next_observations;
  batch.discrete_actions = a.actions;
  batch.next_masks = a.next_masks;
  batch.observations_stride = batch.next_stride = padded<T>(a.draws.replay.features);
  gather_rows<Path>(a.draws, rows, batch);
}

// argmax of each row of a network's outputs, over what `masks` [rows, K] allows, where they are given.
template <typename T>
void greedy_actions(const Layer<T>& last, int64_t rows, const uint8_t* masks, int64_t* actions) {
  for (int64_t i = 0; i < rows; ++i) {
    const T* q = last.output + i * last.stride;
    const uint8_t* allowed = masks == nullptr ? nullptr : masks + i * last.out;
    int64_t best = 0;
    if (allowed != nullptr) {
      while (best + 1 < last.out && !allowed[best]) ++best;
    }
    for (int64_t k = best + 1; k < last.out; ++k) {
      if (allowed == nullptr || allowed[k]) best = q[k] > q[best] ? k : best;
    }
    actions[i] = best;
  }
}

// The target network's values of o', the online network's of o, and before that, for double Q, its best
// actions in o'.
template <SimdPath Path, typename T>
void forward(const DqnUpdateArgs<T>& a) {
  const int64_t stride = padded<T>(a.draws.replay.features), batch = a.draws.batch;
  side_by_side(a.online, batch, [&](int part) {
    if (part == 1) return stack_forward_cpu<Path, T>(a.target, a.next_observations, stride, batch);
    stack_refresh_cpu<Path, T>(a.online);
    if (a.double_q) {
      stack_forward_cpu<Path, T>(a.online, a.next_observations, stride, batch);
      greedy_actions(a.online.last(), batch, a.next_masks, a.best);
    }
    stack_forward_cpu<Path, T>(a.online, a.observations, stride, batch);
  });
}

// y, into `td`. False where one is not finite.
template <typename T>
bool targets(const DqnUpdateArgs<T>& a) {
  const Layer<T>& last = a.target.last();
  if (!a.double_q) greedy_actions(last, a.draws.batch, a.next_masks, a.best);
  bool all_finite = true;
  for (int64_t i = 0; i < a.draws.batch; ++i) {
    const T value = last.output[i * last.stride + a.best[i]];
    a.td[i] = a.draws.rewards[i] + (a.draws.discounts[i] > T(0) ? a.draws.discounts[i] * value : T(0));
    all_finite = all_finite && finite(a.td[i]);
  }
  return all_finite;
}

// Q(o, a) − y in `td`, and the gradient of the loss, which is returned, by the outputs.
template <typename T>
double temporal_differences(const DqnUpdateArgs<T>& a, const float* weights, DqnUpdateResult& result) {
  const Layer<T>& last = a.online.last();
  __builtin_memset(a.grad_output, 0, a.draws.batch * last.stride * sizeof(T));
  const bool huber = a.loss == TdLoss::huber;
  double loss = 0, td_sum = 0, values = 0;
  for (int64_t i = 0; i < a.draws.batch; ++i) {
    const int64_t at = i * last.stride + a.actions[i];
    const T value = last.output[at], td = value - a.td[i];
    const T weight = weights == nullptr ? T(1) : static_cast<T>(weights[i]);
    const T error = td < T(0) ? -td : td;
    const bool linear = huber && !(error < T(1));
    const T slope = linear ? (td < T(0) ? T(-1) : T(1)) : huber ? td : T(2) * td;
    const T l = linear ? error - T(0.5) : huber ? T(0.5) * td * td : td * td;
    a.td[i] = td;
    a.grad_output[at] = weight * slope / static_cast<T>(a.draws.batch);
    loss += static_cast<double>(weight * l);
    td_sum += static_cast<double>(error);
    values += static_cast<double>(value);
  }
  const auto n = static_cast<double>(a.draws.batch);
  result.loss_sum += loss / n;
  result.td_sum += td_sum / n;
  result.value_sum += values / n;
  return loss;
}

// The first row whose action is none of the network's, or −1.
template <typename T>
int64_t impossible_action(const DqnUpdateArgs<T>& a) {
  const auto n = static_cast<uint64_t>(a.online.last().out);
  for (int64_t i = 0; i < a.draws.batch; ++i) {
    if (static_cast<uint64_t>(a.actions[i]) >= n) return i;
  }
  return -1;
}

template <SimdPath Path, typename T>
DqnUpdateResult::Failure one_update(const DqnUpdateArgs<T>& a, int64_t k, DqnUpdateResult& result) {
  const int64_t* rows;
  result.draw_fault = draw_rows<Path>(a.draws, k, rows);
  if (result.draw_fault != DrawFault::none) return DqnUpdateResult::draw;
  gather<Path>(a, rows);
  const int64_t impossible = impossible_action(a);
  if (impossible >= 0) {
    result.row = rows[impossible];
    return DqnUpdateResult::action;
  }
  forward<Path>(a);
  if (!targets(a)) return DqnUpdateResult::target;
  if (!finite(temporal_differences(a, importance_weights(a.draws), result))) return DqnUpdateResult::loss;
  stack_backward_cpu<Path, T>(a.online, a.scratch, a.observations, padded<T>(a.draws.replay.features),
                              a.draws.batch, a.grad_output, nullptr);
  if (!clipped_step<Path>(a.trained, a.max_grad_norm, a.tau)) return DqnUpdateResult::gradient;
  note_errors<Path>(a.draws, k, a.td);
  ++result.updates;
  const bool copies = a.tau == 0.0 && (a.updates_before + result.updates) % a.target_update_freq == 0;
  if (copies) {
    copy_targets(a.trained);
    ++result.copies;
  }
  if (copies || a.tau > 0.0) {
    copy_statistics(a.online, a.target);
    stack_refresh_cpu<Path, T>(a.target);
  }
  return DqnUpdateResult::none;
}

}  // namespace

template <SimdPath Path, typename T>
DqnUpdateResult dqn_update_cpu(const DqnUpdateArgs<T>& a) {
  DqnUpdateResult result;
  exchange_saved(a.trained, false);
  for (const Stack<T>* stack : {&a.online, &a.target}) exchange_statistics(*stack, false);
  stack_refresh_cpu<Path, T>(a.target);
  for (int64_t k = 0; k < a.draws.updates; ++k) {
    result.failure = one_update<Path>(a, k, result);
    if (result.failure == DqnUpdateResult::none) continue;
    exchange_saved(a.trained, true);
    for (const Stack<T>* stack : {&a.online, &a.target}) exchange_statistics(*stack, true);
    take_back_errors<Path>(a.draws, k);
    return result;
  }
  return result;
}

template DqnUpdateResult dqn_update_cpu<kPath, float>(const DqnUpdateArgs<float>&);
template DqnUpdateResult dqn_update_cpu<kPath, double>(const DqnUpdateArgs<double>&);

}  // namespace optix_fast
