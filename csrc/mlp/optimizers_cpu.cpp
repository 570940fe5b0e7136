#include "optimizers.h"

#include "lanes.h"
#include "threads.h"

namespace optix_fast {
namespace {

// update(g, m, v, x) for every vector of elements `first` to `end` of a parameter and its Adam state; the
// target, if it follows, moves by tau towards the new x.
template <typename S, bool Follow, typename T, typename Update>
void sweep(const TrainedParameter<T>& p, int64_t first, int64_t end, T tau, Update update) {
  constexpr int64_t lanes = S::lanes;
  int64_t i = first;
  for (; i + lanes <= end; i += lanes) {
    auto m = S::load(p.exp_avg + i), v = S::load(p.exp_avg_sq + i), x = S::load(p.value + i);
    update(S::load(p.grad + i), m, v, x);
    S::store(p.exp_avg + i, m);
    S::store(p.exp_avg_sq + i, v);
    S::store(p.value + i, x);
    if constexpr (Follow) {
      const auto target = S::load(p.target + i);
      S::store(p.target + i, target + tau * (x - target));
    }
  }
  if (i >= end) return;
  const size_t left = end - i;
  auto m = load_part<S>(p.exp_avg + i, left), v = load_part<S>(p.exp_avg_sq + i, left);
  auto x = load_part<S>(p.value + i, left);
  update(load_part<S>(p.grad + i, left), m, v, x);
  S::store_first(p.exp_avg + i, m, left);
  S::store_first(p.exp_avg_sq + i, v, left);
  S::store_first(p.value + i, x, left);
  if constexpr (Follow) {
    const auto target = load_part<S>(p.target + i, left);
    S::store_first(p.target + i, target + tau * (x - target), left);
  }
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
void adam_step_cpu(const TrainedParameter<T>& p, T scale, T tau) {
  using S = Simd<T>;
  *p.step += 1.0f;
  const double step = *p.step;
  const double correction1 = 1.0 - __builtin_pow(p.beta1, step);
  const double correction2 = 1.0 - __builtin_pow(p.beta2, step);
  const T step_size = static_cast<T>(p.lr / correction1);
  const T inverse_root2 = static_cast<T>(1.0 / __builtin_sqrt(correction2));
  const T beta2 = static_cast<T>(p.beta2), eps = static_cast<T>(p.eps);
  const T rest1 = static_cast<T>(1.0 - p.beta1), rest2 = static_cast<T>(1.0 - p.beta2);
  const T decay = static_cast<T>(p.decoupled ? 0.0 : p.weight_decay);
  const T keep = static_cast<T>(p.decoupled ? 1.0 - p.lr * p.weight_decay : 1.0);
  const auto update = [=](auto g, auto& m, auto& v, auto& x) {
    x = x * keep;
    g = g * scale + decay * x;
    m = m + rest1 * (g - m);
    v = v * beta2 + rest2 * g * g;
    x = x - step_size * divide<S>(m, square_root<S>(v) * inverse_root2 + eps);
  };
  const bool follow = p.target != nullptr && tau > T(0);
  const int members = members_for(p.size * kSweepWork, team_size());
  constexpr int64_t line = 64 / sizeof(T);
  const int64_t lines = (p.size + line - 1) / line;
  in_team(members, [&](int member) {
    const int64_t first = lines * member / members * line, end = lines * (member + 1) / members * line;
    const int64_t last = end < p.size ? end : p.size;
    follow ? sweep<S, true>(p, first, last, tau, update) : sweep<S, false>(p, first, last, tau, update);
  });
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

#define INSTANTIATE(T)                                                     \
  template double squared_norm_cpu<kPath, T>(const T*, int64_t);           \
  template void adam_step_cpu<kPath, T>(const TrainedParameter<T>&, T, T); \
  template void follow_cpu<kPath, T>(const T*, int64_t, T, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace optix_fast
