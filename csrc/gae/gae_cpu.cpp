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

// Adjacent elements of the flat [T·N] array, one per lane, with the values one row later.
template <typename T>
struct Block {
  const T *rewards, *values, *successors, *final_values;
  const uint8_t *terminated, *truncated;
  T *advantages, *returns;
};

// Environments that divide the lanes: a vector holds lanes / Envs rows, and the recurrence runs inside it as
// a scan. After the step of width k, x holds the sum of its own δ and those of the rows up to 2k/Envs later
// that the same episode reaches; only the last term, what comes from the block behind, waits for another
// block.
template <typename S, int Envs, bool Truncation>
class Scan {
 public:
  using T = typename S::Scalar;
  using Vec = typename S::Vec;

  explicit Scan(const GaeArgs<T>& a) : a_(a), gamma_(S::broadcast(static_cast<T>(a.gamma))) {
    const double decay = a.gamma * a.gae_lambda;
    T powers[S::lanes];
    double power = 1.0;
    for (int64_t i = S::lanes - 1; i >= 0; --i) {
      if (i % Envs == Envs - 1) power *= decay;
      powers[i] = static_cast<T>(power);
    }
    powers_ = S::load(powers);
    power = decay;
    for (int i = 0; i < kSteps; ++i, power *= power) decays_[i] = static_cast<T>(power);
  }

  void run() const {
    constexpr int64_t lanes = S::lanes;
    const int64_t total = a_.steps * Envs;
    const int64_t tail = total % lanes == 0 ? lanes : total % lanes;
    int64_t at = total - tail;
    Vec next = last(at, tail);
    for (at -= lanes; at >= 0; at -= lanes) {
      const bool cut = Truncation;
      next =
          block({a_.rewards + at, a_.values + at, a_.values + at + Envs, cut ? a_.final_values + at : nullptr,
                 a_.terminated + at, cut ? a_.truncated + at : nullptr, a_.advantages + at, a_.returns + at},
                next);
    }
  }

 private:
  static constexpr int steps_of(size_t width) { return width < S::lanes ? 1 + steps_of(2 * width) : 0; }
  static constexpr int kSteps = steps_of(Envs);

  template <size_t Width, int Step = 0>
  void scan(Vec& x, typename S::Mask& reach) const {
    if constexpr (Width < S::lanes) {
      const Vec zero = S::broadcast(T(0));
      const auto everywhere = typename S::Mask{} == 0;
      x = x + decays_[Step] * S::select(reach, S::template shift_down<Width>(x, zero), zero);
      reach = reach & S::template shift_down<Width>(reach, everywhere);
      scan<2 * Width, Step + 1>(x, reach);
    }
  }

  Vec block(const Block<T>& b, Vec next) const {
    const Vec zero = S::broadcast(T(0));
    const Vec value = S::load(b.values);
    const auto terminated = S::load_flags(b.terminated);
    auto done = terminated;
    Vec successor = S::load(b.successors);
    if (Truncation) {
      const auto truncated = S::load_flags(b.truncated);
      successor = S::select(truncated, S::load(b.final_values), successor);
      done = done | truncated;
    }
    successor = S::select(terminated, zero, successor);
    Vec advantage = S::load(b.rewards) + gamma_ * successor - value;
    auto reach = ~done;
    scan<Envs>(advantage, reach);
    advantage = advantage + powers_ * S::select(reach, S::template repeat<Envs>(next), zero);
    S::store(b.advantages, advantage);
    S::store(b.returns, advantage + value);
    return advantage;
  }

  // The last n elements, in a block of their own: the rest of it is a reward of 0 after the end.
  Vec last(int64_t at, int64_t n) const {
    constexpr int64_t lanes = S::lanes;
    T rewards[lanes] = {}, values[lanes] = {}, successors[lanes] = {}, final_values[lanes] = {};
    T advantages[lanes], returns[lanes];
    uint8_t terminated[lanes] = {}, truncated[lanes] = {};
    for (int64_t i = 0; i < n; ++i) {
      rewards[i] = a_.rewards[at + i];
      values[i] = a_.values[at + i];
      successors[i] = i + Envs < n ? a_.values[at + i + Envs] : last_value_of(a_, i + Envs - n);
      terminated[i] = a_.terminated[at + i];
      if (Truncation) {
        truncated[i] = a_.truncated[at + i];
        final_values[i] = a_.final_values[at + i];
      }
    }
    const Vec next =
        block({rewards, values, successors, final_values, terminated, truncated, advantages, returns},
              S::broadcast(T(0)));
    for (int64_t i = 0; i < n; ++i) {
      a_.advantages[at + i] = advantages[i];
      a_.returns[at + i] = returns[i];
    }
    return next;
  }

  const GaeArgs<T>& a_;
  const Vec gamma_;
  Vec powers_;                          // decay to the number of rows to the block behind
  T decays_[kSteps == 0 ? 1 : kSteps];  // decay to the number of rows of each step
};

// Whether N environments were few enough for a scan.
template <int Envs, bool Truncation, typename T>
bool scanned(const GaeArgs<T>& a) {
  if constexpr (Envs < Simd<T>::lanes) {
    if (a.envs != Envs) return scanned<2 * Envs, Truncation>(a);
    Scan<Simd<T>, Envs, Truncation>(a).run();
    return true;
  }
  return false;
}

template <bool Truncation, typename T>
void run(const GaeArgs<T>& a) {
  if (a.steps == 0) return;
  if (scanned<1, Truncation>(a)) return;
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
  for (; fits(3); col += 3) tile<Single<T>, 3, Truncation>(a, col);
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
