#include "tqc_update.h"

#include "learners/squashed_policy_cpu.h"

namespace optix_fast {
namespace {

template <typename S, typename T>
void compare_exchange(T* low, T* high) {
  const auto a = S::load(low), b = S::load(high);
  const auto swap = (a > b) | (a != a);
  S::store(low, S::select(swap, b, a));
  S::store(high, S::select(swap, a, b));
}

// Sorts n vectors, each lane for itself: Knuth's algorithm 5.2.2M, merge exchange.
template <typename S, typename T>
void sort_lanes(T* vectors, int64_t n) {
  constexpr int64_t lanes = S::lanes;
  int64_t top = 1;
  while (2 * top < n) top *= 2;
  for (int64_t p = n > 1 ? top : 0; p > 0; p /= 2) {
    int64_t q = top, r = 0, d = p;
    while (true) {
      for (int64_t i = 0; i < n - d; ++i) {
        if ((i & p) == r) compare_exchange<S>(vectors + i * lanes, vectors + (i + d) * lanes);
      }
      if (q == p) break;
      d = q - p;
      q /= 2;
      r = p;
    }
  }
}

// Column `column` of rows first … first + lanes of a network's outputs, a row in each lane.
template <typename S, typename T>
typename S::Vec column_of(const Stack<T>& net, int64_t first, int64_t column) {
  const Layer<T>& l = net.last();
  T lanes[S::lanes];
  for (int64_t i = 0; i < int64_t(S::lanes); ++i) lanes[i] = l.output[(first + i) * l.stride + column];
  return S::load(lanes);
}

// The atoms of y for rows first … first + lanes; their number is returned.
template <typename S, typename T>
int64_t set_atoms(const TqcArgs<T>& a, int64_t first, int64_t here, T alpha) {
  const Critics<T>& c = a.critics;
  const Draws<T>& d = a.draws;
  constexpr int64_t lanes = S::lanes;
  for (int i = 0; i < c.n; ++i) {
    for (int64_t j = 0; j < c.outputs; ++j) {
      S::store(a.atoms + (i * c.outputs + j) * lanes, column_of<S>(c.targets[i], first, j));
    }
  }
  sort_lanes<S>(a.atoms, c.n * c.outputs);
  const int64_t kept = c.n * (c.outputs - a.dropped);
  const auto cost = alpha * S::load_first(a.next.log_prob + first, here);
  const auto rewards = S::load_first(d.rewards + first, here);
  const auto discounts = S::load_first(d.discounts + first, here);
  const auto zero = S::broadcast(0);
  for (int64_t k = 0; k < kept; ++k) {
    T* atom = a.atoms + k * lanes;
    S::store(atom, rewards + S::select(discounts > zero, discounts * (S::load(atom) - cost), zero));
  }
  return kept;
}

// Of the critics' loss: the value, its gradients by the quantiles, and the TD errors.
template <SimdPath Path, typename T>
CriticStep quantile_errors(const TqcArgs<T>& a, T alpha) {
  using S = Simd<T>;
  constexpr int64_t lanes = S::lanes;
  const Critics<T>& c = a.critics;
  const Draws<T>& d = a.draws;
  const float* weights = importance_weights(d);
  const int64_t m = c.outputs;
  const auto zero = S::broadcast(0), one = S::broadcast(1);
  CriticStep step;
  for (int64_t first = 0; first < d.batch; first += lanes) {
    const int64_t here = d.batch - first < lanes ? d.batch - first : lanes;
    const int64_t kept = set_atoms<S>(a, first, here, alpha);
    T weight_of[lanes] = {}, lane[lanes];
    for (int64_t r = 0; r < here; ++r) weight_of[r] = weights == nullptr ? T(1) : T(weights[first + r]);
    const auto share = S::load(weight_of) * (T(1) / static_cast<T>(c.n * m * kept * d.batch));
    auto target = zero, td = zero, loss = zero, sum = zero;
    for (int64_t k = 0; k < kept; ++k) target = target + S::load(a.atoms + k * lanes);
    target = target / static_cast<T>(kept);
    for (int i = 0; i < c.n; ++i) {
      const int64_t stride = c.nets[i].last().stride;
      auto value = zero;
      for (int64_t j = 0; j < m; ++j) {
        const auto quantile = column_of<S>(c.nets[i], first, j);
        const auto above = S::broadcast((T(2 * j) + T(1)) / T(2 * m)), below = one - above;
        auto slope = zero, cost = zero;
        for (int64_t k = 0; k < kept; ++k) {
          const auto u = S::load(a.atoms + k * lanes) - quantile;
          const auto clipped = S::select(u > one, one, S::select(u < -one, -one, u));
          const auto part = S::select(u < zero, below, above) * clipped;
          slope = slope + part;
          cost = cost + part * (u - T(0.5) * clipped);
        }
        value = value + quantile;
        loss = loss + cost;
        S::store(lane, -share * slope);
        for (int64_t r = 0; r < here; ++r) c.grad_value[i][(first + r) * stride + j] = lane[r];
      }
      for (int64_t r = 0; r < here; ++r) {
        T* row = c.grad_value[i] + (first + r) * stride;
        for (int64_t j = m; j < stride; ++j) row[j] = T(0);
      }
      value = value / static_cast<T>(m);
      sum = sum + value;
      td = td + magnitude<S>(target - value);
    }
    S::store_first(c.td + first, td / static_cast<T>(c.n), here);
    loss = loss * share;
    for (int64_t r = 0; r < here; ++r) {
      step.loss += static_cast<double>(loss[r]);
      step.mean_q += static_cast<double>(sum[r]);
    }
  }
  step.mean_q /= static_cast<double>(c.n * d.batch);
  return step;
}

}  // namespace

template <SimdPath Path, typename T>
SoftResult tqc_update_cpu(const TqcArgs<T>& a) {
  const Critics<T>& c = a.critics;
  const T share = T(1) / static_cast<T>(c.n * c.outputs);
  const auto fit = [&](T alpha) { return quantile_errors<Path>(a, alpha); };
  const auto value = [&](int64_t row) {
    T sum = 0;
    for (int i = 0; i < c.n; ++i) {
      const Layer<T>& l = c.nets[i].last();
      for (int64_t j = 0; j < c.outputs; ++j) sum += l.output[row * l.stride + j];
      c.by_value[i][row] = share;
    }
    return sum * share;
  };
  return soft_updates<Path>(
      a, [&](int64_t k, SoftResult& result) { return soft_update<Path>(a, k, result, fit, value); });
}

template SoftResult tqc_update_cpu<kPath, float>(const TqcArgs<float>&);
template SoftResult tqc_update_cpu<kPath, double>(const TqcArgs<double>&);

}  // namespace optix_fast
