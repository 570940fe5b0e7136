#include "act.h"

#include "mlp/activations.h"
#include "random/random.h"

namespace optix_fast {
namespace {

using S = Simd<float>;
using Vec = S::Vec;
constexpr int64_t kLanes = S::lanes;
constexpr float kHalfLog2Pi = 0.91893853320467274f;

Vec load_up_to(const float* p, int64_t n) { return n < kLanes ? load_part<S>(p, n) : S::load(p); }

float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

template <typename Observation>
void prepare(const ActArgs& a, const Observation* observations) {
  const int64_t stride = padded<float>(a.features);
  for (int64_t i = 0; i < a.rows; ++i) {
    const Observation* from = observations + i * a.features;
    float* to = a.input + i * stride;
    for (int64_t j = 0; j < a.features; ++j) {
      if (a.mean == nullptr) {
        to[j] = static_cast<float>(from[j]);
        continue;
      }
      double x = (static_cast<double>(from[j]) - a.mean[j]) / __builtin_sqrt(a.variance[j] + 1e-8);
      if (a.clip > 0) x = x < -a.clip ? -a.clip : x > a.clip ? a.clip : x;
      to[j] = static_cast<float>(x);
    }
  }
}

// Actor outputs [N, actor.last().out] and values, row by row.
template <SimdPath Path>
void forward_few(const ActArgs& a) {
  const auto run = [&](const Stack<float>& stack, const float* x, int64_t stride, float* out,
                       int64_t out_stride) {
    stack_forward_few_cpu<Path, float>(stack, x, stride, a.rows, a.lines, a.line_stride, out, out_stride);
  };
  const float* x = a.input;
  int64_t stride = padded<float>(a.features);
  if (a.trunk.n > 0) {
    const int64_t shared_stride = padded<float>(a.trunk.last().out);
    run(a.trunk, x, stride, a.shared, shared_stride);
    x = a.shared;
    stride = shared_stride;
  }
  run(a.actor, x, stride, a.outputs, a.actor.last().out);
  if (a.values != nullptr) run(a.critic, x, stride, a.values, 1);
}

template <SimdPath Path>
void forward_many(const ActArgs& a) {
  const auto run = [&](const Stack<float>& stack, const float* x, int64_t stride) {
    stack_refresh_cpu<Path, float>(stack);
    stack_forward_cpu<Path, float>(stack, x, stride, a.rows);
  };
  const float* x = a.input;
  int64_t stride = padded<float>(a.features);
  if (a.trunk.n > 0) {
    run(a.trunk, x, stride);
    x = a.trunk.last().output;
    stride = a.trunk.last().stride;
  }
  run(a.actor, x, stride);
  const Layer<float>& policy = a.actor.last();
  for (int64_t i = 0; i < a.rows; ++i) {
    __builtin_memcpy(a.outputs + i * policy.out, policy.output + i * policy.stride,
                     policy.out * sizeof(float));
  }
  if (a.values == nullptr) return;
  run(a.critic, x, stride);
  const Layer<float>& value = a.critic.last();
  for (int64_t i = 0; i < a.rows; ++i) a.values[i] = value.output[i * value.stride];
}

float log_of(float x) { return log<S>(S::broadcast(x))[0]; }

// log p of one row's K logits, in place. False where the mask allows none.
bool log_softmax(float* logits, const uint8_t* allowed, int64_t n) {
  const float minus_infinity = -__builtin_inff();
  float largest = minus_infinity;
  bool any = allowed == nullptr;
  for (int64_t k = 0; k < n; ++k) {
    if (allowed != nullptr && !allowed[k]) logits[k] = minus_infinity;
    any = any || allowed[k];
    largest = logits[k] > largest ? logits[k] : largest;
  }
  float total = 0;
  for (int64_t k = 0; k < n; k += kLanes) {
    const Vec weight = exp<S>(load_up_to(logits + k, n - k) - largest);
    const int64_t here = n - k < kLanes ? n - k : kLanes;
    for (int64_t i = 0; i < here; ++i) total += weight[i];
  }
  const float shift = largest + log_of(total);
  for (int64_t k = 0; k < n; ++k) logits[k] -= shift;
  return any;
}

int64_t most_probable(const float* log_p, int64_t n) {
  int64_t best = 0;
  for (int64_t k = 1; k < n; ++k) best = log_p[k] > log_p[best] ? k : best;
  return best;
}

// The inversion. `cumulative` is scratch.
int64_t invert(const float* log_p, int64_t n, float uniform, float* cumulative) {
  double sum = 0;
  for (int64_t k = 0; k < n; k += kLanes) {
    const Vec p = exp<S>(load_up_to(log_p + k, n - k));
    const int64_t here = n - k < kLanes ? n - k : kLanes;
    for (int64_t i = 0; i < here; ++i) {
      sum += p[i];
      cumulative[k + i] = static_cast<float>(sum);
    }
  }
  const float target = uniform * cumulative[n - 1];
  int64_t below = 0;
  for (int64_t k = 0; k < n; ++k) below += cumulative[k] <= target;
  return below < n ? below : n - 1;  // n only where the probabilities are NaN
}

template <SimdPath Path>
ActFault draw_categorical(const ActArgs& a) {
  const int64_t draws = a.rows * a.components;
  float* cumulative = a.numbers + padded<float>(draws);
  if (!a.deterministic) random_uniform_cpu<Path>(a.key, a.stream_offset, draws, a.numbers);
  ActFault fault = ActFault::none;
  for (int64_t i = 0; i < a.rows; ++i) {
    float* log_p = a.outputs + i * a.width;
    const uint8_t* allowed = a.action_mask == nullptr ? nullptr : a.action_mask + i * a.width;
    float log_prob = 0;
    for (int64_t c = 0; c < a.components; ++c) {
      const int64_t at = i * a.components + c, n = a.nvec[c];
      if (!log_softmax(log_p, allowed, n)) return ActFault::row_masked;
      const int64_t action =
          a.deterministic ? most_probable(log_p, n) : invert(log_p, n, a.numbers[at], cumulative);
      a.discrete_actions[at] = a.first_action[c] + action;
      log_prob += log_p[action];
      log_p += n;
      allowed = allowed == nullptr ? nullptr : allowed + n;
    }
    if (a.log_probs != nullptr) a.log_probs[i] = log_prob;
    if (!(log_prob - log_prob == 0)) fault = ActFault::non_finite;
  }
  return fault;
}

// Number `which` of the allowed actions.
int64_t allowed_action(const uint8_t* allowed, int64_t which) {
  if (allowed == nullptr) return which;
  int64_t action = 0;
  for (;; ++action) {
    if (allowed[action] && which-- == 0) return action;
  }
}

template <SimdPath Path>
ActFault draw_greedy(const ActArgs& a) {
  const bool explores = !a.deterministic;
  if (explores) random_uniform_cpu<Path>(a.key, a.stream_offset, 2 * a.rows, a.numbers);
  ActFault fault = ActFault::none;
  for (int64_t i = 0; i < a.rows; ++i) {
    const float* q = a.outputs + i * a.width;
    const uint8_t* allowed = a.action_mask == nullptr ? nullptr : a.action_mask + i * a.width;
    int64_t best = -1, n_allowed = 0;
    for (int64_t k = 0; k < a.width; ++k) {
      if (!(q[k] - q[k] == 0)) fault = ActFault::non_finite;
      if (allowed != nullptr && !allowed[k]) continue;
      ++n_allowed;
      if (best < 0 || q[k] > q[best]) best = k;
    }
    if (n_allowed == 0) return ActFault::row_masked;
    if (explores && a.numbers[i] < a.epsilon) {
      const auto which = static_cast<int64_t>(a.numbers[a.rows + i] * static_cast<float>(n_allowed));
      best = allowed_action(allowed, which < n_allowed ? which : n_allowed - 1);
    }
    a.discrete_actions[i] = a.first_action[0] + best;
  }
  return fault;
}

template <SimdPath Path>
ActFault draw_normal(const ActArgs& a) {
  const int64_t n = a.width, stride = padded<float>(n);
  float* log_std = a.numbers + padded<float>(a.rows * n);
  float* sample = log_std + stride;
  if (!a.deterministic) random_normal_cpu<Path>(a.key, a.stream_offset, a.rows * n, a.numbers);
  ActFault fault = ActFault::none;
  for (int64_t i = 0; i < a.rows; ++i) {
    const float* out = a.outputs + i * a.actor.last().out;
    const float* wanted = a.log_std != nullptr ? a.log_std : out + n;
    float log_prob = 0;
    for (int64_t j = 0; j < n; ++j) {
      log_std[j] = clamp(wanted[j], -5.0f, 2.0f);
      const float noise = a.deterministic ? 0.0f : a.numbers[i * n + j];
      log_prob += -0.5f * (noise * noise) - log_std[j] - kHalfLog2Pi;
    }
    for (int64_t j = 0; j < n; j += kLanes) {
      Vec x = load_up_to(out + j, n - j);
      if (!a.deterministic) x = x + exp<S>(S::load(log_std + j)) * load_up_to(a.numbers + i * n + j, n - j);
      if (a.raw != nullptr) S::store_first(a.raw + i * n + j, x, n - j);
      // tanh may round to just over 1; an action may not.
      S::store(sample + j, a.squash ? limit<S>(tanh<S>(x), 1.0f) : x);
      for (int64_t k = j; k < n && k < j + kLanes; ++k) log_prob += x[k - j] - x[k - j];  // 0, or NaN
    }
    for (int64_t j = 0; j < n; ++j) {
      const float scaled = a.squash ? sample[j] * a.scale[j] + a.offset[j] : sample[j];
      const float action = clamp(scaled, a.low[j], a.high[j]);
      if (a.actions != nullptr) a.actions[i * n + j] = action;
      if (a.wide_actions != nullptr) a.wide_actions[i * n + j] = action;
    }
    if (a.log_probs != nullptr) a.log_probs[i] = log_prob;
    if (!(log_prob - log_prob == 0)) fault = ActFault::non_finite;
  }
  return fault;
}

}  // namespace

template <SimdPath Path>
ActFault act_cpu(const ActArgs& a) {
  if (a.observations != nullptr) {
    prepare(a, a.observations);
  } else {
    prepare(a, a.wide_observations);
  }
  if (a.rows < kFewRows) {
    forward_few<Path>(a);
  } else {
    forward_many<Path>(a);
  }
  switch (a.kind) {
    case PolicyKind::categorical:
    case PolicyKind::multi_discrete:
      return draw_categorical<Path>(a);
    case PolicyKind::normal:
      return draw_normal<Path>(a);
    default:
      return draw_greedy<Path>(a);
  }
}

template ActFault act_cpu<kPath>(const ActArgs&);

}  // namespace optix_fast
