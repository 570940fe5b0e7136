#include "optimizers.h"

#include "lanes.h"
#include "threads.h"

namespace optix_fast {
namespace {

// update(g, state, x) for every vector of elements `first` to `end` of a parameter and its N state tensors; the
// target, if it follows, moves by tau towards the new x.
template <typename S, int N, bool Follow, typename T, typename Update>
void sweep(const TrainedParameter<T>& p, int64_t first, int64_t end, T tau, Update update) {
  constexpr int64_t lanes = S::lanes;
  T* const state[kMostStates] = {p.state[0], p.state[1], p.state[2]};
  typename S::Vec s[kMostStates];
  int64_t i = first;
  for (; i + lanes <= end; i += lanes) {
    for (int k = 0; k < N; ++k) s[k] = S::load(state[k] + i);
    auto x = S::load(p.value + i);
    update(S::load(p.grad + i), s, x);
    for (int k = 0; k < N; ++k) S::store(state[k] + i, s[k]);
    S::store(p.value + i, x);
    if constexpr (Follow) {
      const auto target = S::load(p.target + i);
      S::store(p.target + i, target + tau * (x - target));
    }
  }
  if (i >= end) return;
  const size_t left = end - i;
  for (int k = 0; k < N; ++k) s[k] = load_part<S>(state[k] + i, left);
  auto x = load_part<S>(p.value + i, left);
  update(load_part<S>(p.grad + i, left), s, x);
  for (int k = 0; k < N; ++k) S::store_first(state[k] + i, s[k], left);
  S::store_first(p.value + i, x, left);
  if constexpr (Follow) {
    const auto target = load_part<S>(p.target + i, left);
    S::store_first(p.target + i, target + tau * (x - target), left);
  }
}

// The sweep over a whole parameter, shared out where it is large.
template <typename S, int N, typename T, typename Update>
void sweep_all(const TrainedParameter<T>& p, T tau, Update update) {
  const bool follow = p.target != nullptr && tau > T(0);
  const int members = members_for(p.size * kSweepWork, team_size());
  constexpr int64_t line = 64 / sizeof(T);
  const int64_t lines = (p.size + line - 1) / line;
  in_team(members, [&](int member) {
    const int64_t first = lines * member / members * line, end = lines * (member + 1) / members * line;
    const int64_t last = end < p.size ? end : p.size;
    follow ? sweep<S, N, true>(p, first, last, tau, update) : sweep<S, N, false>(p, first, last, tau, update);
  });
}

template <typename S, typename T>
void adam_step(const TrainedParameter<T>& p, T scale, T tau) {
  const bool decoupled = p.kind == OptimizerKind::adamw;
  const double step = *p.step;
  const double correction1 = 1.0 - __builtin_pow(p.beta1, step);
  const double correction2 = 1.0 - __builtin_pow(p.beta2, step);
  const T step_size = static_cast<T>(p.lr / correction1);
  const T inverse_root2 = static_cast<T>(1.0 / __builtin_sqrt(correction2));
  const T beta2 = static_cast<T>(p.beta2), eps = static_cast<T>(p.eps);
  const T rest1 = static_cast<T>(1.0 - p.beta1), rest2 = static_cast<T>(1.0 - p.beta2);
  const T decay = static_cast<T>(decoupled ? 0.0 : p.weight_decay);
  const T keep = static_cast<T>(decoupled ? 1.0 - p.lr * p.weight_decay : 1.0);
  sweep_all<S, 2>(p, tau, [=](auto g, auto* state, auto& x) {
    auto &m = state[0], &v = state[1];
    x = x * keep;
    g = g * scale + decay * x;
    m = m + rest1 * (g - m);
    v = v * beta2 + rest2 * g * g;
    x = x - step_size * divide<S>(m, square_root<S>(v) * inverse_root2 + eps);
  });
}

template <typename S, typename T>
void sgd_step(TrainedParameter<T>& p, T scale, T tau) {
  const T lr = static_cast<T>(p.lr), decay = static_cast<T>(p.weight_decay);
  if (p.momentum == 0.0) {
    return sweep_all<S, 0>(p, tau, [=](auto g, auto*, auto& x) { x = x - lr * (g * scale + decay * x); });
  }
  const T momentum = static_cast<T>(p.momentum);
  const T by_g = static_cast<T>(p.nesterov ? 1.0 : 0.0), by_b = static_cast<T>(p.nesterov ? p.momentum : 1.0);
  const T taken = static_cast<T>(p.begins ? 1.0 : 1.0 - p.dampening);
  p.begins = false;
  sweep_all<S, 1>(p, tau, [=](auto g, auto* state, auto& x) {
    auto& b = state[0];
    g = g * scale + decay * x;
    b = momentum * b + taken * g;
    x = x - lr * (by_g * g + by_b * b);
  });
}

template <typename S, bool Momentum, bool Centered, typename T>
void rmsprop_step(const TrainedParameter<T>& p, T scale, T tau) {
  const bool inside = p.kind == OptimizerKind::rmsprop_tf;
  const T lr = static_cast<T>(p.lr), decay = static_cast<T>(p.weight_decay);
  const T alpha = static_cast<T>(p.alpha), rest = static_cast<T>(1.0 - p.alpha);
  const T momentum = static_cast<T>(p.momentum);
  const T under_root = static_cast<T>(inside ? p.eps : 0.0), behind = static_cast<T>(inside ? 0.0 : p.eps);
  sweep_all<S, 1 + int(Momentum) + int(Centered)>(p, tau, [=](auto g, auto* state, auto& x) {
    auto& v = state[0];
    g = g * scale + decay * x;
    v = v * alpha + rest * g * g;
    auto squares = v;
    if constexpr (Centered) {
      auto& mean = state[Momentum ? 2 : 1];
      mean = mean + rest * (g - mean);
      squares = squares - mean * mean;
    }
    const auto ratio = divide<S>(g, square_root<S>(squares + under_root) + behind);
    if constexpr (Momentum) {
      state[1] = momentum * state[1] + ratio;
      x = x - lr * state[1];
    } else {
      x = x - lr * ratio;
    }
  });
}

}  // namespace

template <SimdPath Path, typename T>
double squared_norm_cpu(const T* values, int64_t n) {
  using S = Simd<T>;
  constexpr int64_t lanes = S::lanes;
  double total = 0.0;
  for (int64_t from = 0; from < n;) {
    // Sums of T stay short: 64 vectors, then double.
    const int64_t to = n - from < 64 * lanes ? n : from + 64 * lanes;
    typename S::Vec sum{};
    for (; from < to; from += lanes) {
      const auto v = to - from < lanes ? load_part<S>(values + from, to - from) : S::load(values + from);
      sum = sum + v * v;
    }
    for (int64_t j = 0; j < lanes; ++j) total += sum[j];
    from = to;
  }
  return total;
}

template <SimdPath Path, typename T>
void optimizer_step_cpu(TrainedParameter<T>& p, T scale, T tau) {
  using S = Simd<T>;
  if (p.step != nullptr) *p.step += 1.0f;
  switch (p.kind) {
    case OptimizerKind::adam:
    case OptimizerKind::adamw:
      return adam_step<S>(p, scale, tau);
    case OptimizerKind::sgd:
      return sgd_step<S>(p, scale, tau);
    default:
      if (p.momentum > 0.0) {
        return p.centered ? rmsprop_step<S, true, true>(p, scale, tau)
                          : rmsprop_step<S, true, false>(p, scale, tau);
      }
      return p.centered ? rmsprop_step<S, false, true>(p, scale, tau)
                        : rmsprop_step<S, false, false>(p, scale, tau);
  }
}

template <SimdPath Path, typename T>
void follow_cpu(const T* value, int64_t n, T tau, T* target) {
  using S = Simd<T>;
  for (int64_t i = 0; i < n; i += S::lanes) {
    const size_t here = n - i < int64_t(S::lanes) ? n - i : S::lanes;
    const auto x = S::load_first(value + i, here), old = S::load_first(target + i, here);
    S::store_first(target + i, old + tau * (x - old), here);
  }
}

#define INSTANTIATE(T)                                                    \
  template double squared_norm_cpu<kPath, T>(const T*, int64_t);          \
  template void optimizer_step_cpu<kPath, T>(TrainedParameter<T>&, T, T); \
  template void follow_cpu<kPath, T>(const T*, int64_t, T, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace optix_fast
