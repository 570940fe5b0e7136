#include "gae.h"
#include "simd.h"

namespace optix_fast {
namespace {

template <typename T>
T last_value_of(const GaeArgs<T>& a, int64_t env) {
  return a.last_value == nullptr ? a.last_scalar : a.last_value[env * a.last_value_stride];
}

// Columns [col, col + Count·lanes), backwards through time. Several vectors side by side (Count) hide the
// latency of the recurrence.
template <typename S, int Count, bool Truncation, typename T>
void tile(const GaeArgs<T>& a, int64_t col) {
  using Vec = typename S::Vec;
  const Vec gamma = S::broadcast(static_cast<T>(a.gamma));
  const Vec decay = S::broadcast(static_cast<T>(a.gamma * a.gae_lambda));
  const Vec zero = S::broadcast(T(0));
  Vec next_value[Count];
  Vec advantage[Count];
  for (int j = 0; j < Count; ++j) {
    T last[S::lanes];
    for (size_t i = 0; i < S::lanes; ++i) last[i] = last_value_of(a, col + j * S::lanes + i);
    next_value[j] = S::load(last);
    advantage[j] = zero;
  }
  for (int64_t t = a.steps - 1; t >= 0; --t) {
    const int64_t row = t * a.envs + col;
    for (int j = 0; j < Count; ++j) {
      const int64_t at = row + j * S::lanes;
      const Vec value = S::load(a.values + at);
      const auto terminated = S::load_flags(a.terminated + at);
      auto done = terminated;
      Vec successor = next_value[j];
      if (Truncation) {
        const auto truncated = S::load_flags(a.truncated + at);
        successor = S::select(truncated, S::load(a.final_values + at), successor);
        done = done | truncated;
      }
      successor = S::select(terminated, zero, successor);
      const Vec delta = S::load(a.rewards + at) + gamma * successor - value;
      advantage[j] = delta + decay * S::select(done, zero, advantage[j]);
      next_value[j] = value;
      S::store(a.advantages + at, advantage[j]);
      S::store(a.returns + at, advantage[j] + value);
    }
  }
}

// δ of `S::lanes` adjacent elements of the flat [T·N] array whose successors are all inside it.
template <typename S, bool Truncation, typename T>
void flat_delta(const GaeArgs<T>& a, int64_t at) {
  using Vec = typename S::Vec;
  const Vec zero = S::broadcast(T(0));
  Vec successor = S::load(a.values + at + a.envs);
  if (Truncation) {
    successor = S::select(S::load_flags(a.truncated + at), S::load(a.final_values + at), successor);
  }
  successor = S::select(S::load_flags(a.terminated + at), zero, successor);
  const Vec gamma = S::broadcast(static_cast<T>(a.gamma));
  S::store(a.advantages + at, S::load(a.rewards + at) + gamma * successor - S::load(a.values + at));
}

// Envs (1 to 3) columns that fill no vector: δ over the flat array, then the recurrence in scalars, then
// returns.
template <int Envs, bool Truncation, typename T>
void few(const GaeArgs<T>& a) {
  using Wide = Simd<T>;
  const T decay = static_cast<T>(a.gamma * a.gae_lambda);
  const int64_t inner = (a.steps - 1) * Envs;  // all rows but the last
  int64_t at = 0;
  for (; at + int64_t(Wide::lanes) <= inner; at += Wide::lanes) flat_delta<Wide, Truncation>(a, at);
  for (; at < inner; ++at) flat_delta<Single<T>, Truncation>(a, at);
  T advantage[Envs];
  for (int e = 0; e < Envs; ++e) {
    at = inner + e;
    T successor = last_value_of(a, e);
    if (Truncation && a.truncated[at]) successor = a.final_values[at];
    if (a.terminated[at]) successor = T(0);
    advantage[e] = a.rewards[at] + static_cast<T>(a.gamma) * successor - a.values[at];
    a.advantages[at] = advantage[e];
  }
  for (int64_t row = inner - Envs; row >= 0; row -= Envs) {
    for (int e = 0; e < Envs; ++e) {
      bool done = a.terminated[row + e] != 0;
      if (Truncation) done = done | (a.truncated[row + e] != 0);
      const T keep = done ? T(0) : advantage[e];
      advantage[e] = a.advantages[row + e] + decay * keep;
      a.advantages[row + e] = advantage[e];
    }
  }
  const int64_t total = a.steps * Envs;
  for (int64_t i = 0; i < total; ++i) a.returns[i] = a.advantages[i] + a.values[i];
}

template <bool Truncation, typename T>
void run(const GaeArgs<T>& a) {
  if (a.steps == 0) return;
  if (a.envs == 1) return few<1, Truncation>(a);
  if (a.envs == 2) return few<2, Truncation>(a);
  if (a.envs == 3) return few<3, Truncation>(a);
  // From wide tiles to single columns, so that 13 environments are one vector of 8, one of 4 and one column.
  using Wide = Simd<T>;
  using Half = Simd<T, (kVectorBytes > 16 ? kVectorBytes / 2 : 16)>;
  using Narrow = Simd<T, 16>;
  int64_t col = 0;
  const auto fits = [&](size_t columns) { return col + int64_t(columns) <= a.envs; };
  for (; fits(4 * Wide::lanes); col += 4 * Wide::lanes) tile<Wide, 4, Truncation>(a, col);
  for (; fits(Wide::lanes); col += Wide::lanes) tile<Wide, 1, Truncation>(a, col);
  for (; fits(Half::lanes); col += Half::lanes) tile<Half, 1, Truncation>(a, col);
  for (; fits(Narrow::lanes); col += Narrow::lanes) tile<Narrow, 1, Truncation>(a, col);
  for (; fits(1); ++col) tile<Single<T>, 1, Truncation>(a, col);
}

}  // namespace

template <SimdPath Path, typename T>
void gae_cpu(const GaeArgs<T>& args) {
  if (args.truncated == nullptr) {
    run<false>(args);
  } else {
    run<true>(args);
  }
}

template void gae_cpu<kPath, float>(const GaeArgs<float>&);
template void gae_cpu<kPath, double>(const GaeArgs<double>&);

}  // namespace optix_fast
