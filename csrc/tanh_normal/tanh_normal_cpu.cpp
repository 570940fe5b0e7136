#include "tanh_normal.h"

#include "../random/random.h"
#include "simd_math.h"

namespace optix_fast {
namespace {

constexpr int64_t kBlock = 512;  // elements; a multiple of every vector's lanes and of a Philox block
constexpr double kHalfLog2Pi = 0.91893853320467274;

// Walks over flat [B, A] elements, row by row.
class Rows {
 public:
  explicit Rows(int64_t width) : width_(width) {}
  int64_t width() const { return width_; }

  // The next n elements: part(row, from, count, first) for those [from, from + count) of each row they lie
  // in; `first` where the row begins there.
  template <typename Part>
  void next(int64_t n, Part part) {
    int64_t from = 0;
    if (column_ > 0) {
      const int64_t left = width_ - column_;
      from = left < n ? left : n;
      part(row_, 0, from, false);
      column_ += from;
      if (column_ < width_) return;
      column_ = 0;
      ++row_;
    }
    switch (width_) {
      case 2:
        return whole<2>(from, n, part);
      case 3:
        return whole<3>(from, n, part);
      case 4:
        return whole<4>(from, n, part);
      case 6:
        return whole<6>(from, n, part);
      case 8:
        return whole<8>(from, n, part);
      default:
        return whole<0>(from, n, part);
    }
  }

 private:
  // Whole rows of Width columns, known to the compiler (0: not), then the beginning of one more.
  template <int Width, typename Part>
  void whole(int64_t from, int64_t n, Part part) {
    const int64_t width = Width == 0 ? width_ : Width;
    for (; from + width <= n; from += width) part(row_++, from, width, true);
    if (from < n) {
      column_ = n - from;
      part(row_, from, column_, true);
    }
  }

  const int64_t width_;
  int64_t row_ = 0, column_ = 0;
};

// The terms of elements [start, start + n), added to their rows.
template <typename T>
void add_to_rows(Rows& rows, const T* terms, int64_t start, int64_t n, T* log_prob) {
  if (rows.width() == 1) {
    for (int64_t i = 0; i < n; ++i) log_prob[start + i] = terms[i];
    return;
  }
  rows.next(n, [=](int64_t row, int64_t from, int64_t count, bool first) {
    T sum = first ? T(0) : log_prob[row];
    for (int64_t i = from; i < from + count; ++i) sum += terms[i];
    log_prob[row] = sum;
  });
}

// s and e^(±s) of the elements, a vector at a time from the first on. A row of s that all samples share is
// laid out once, a vector longer than it is, so that any stretch of its repetition is one load, and needs A
// exponentials only.
template <typename S, int Sign>
class Scales {
 public:
  using T = typename S::Scalar;
  using Vec = typename S::Vec;
  static constexpr int64_t lanes = S::lanes;

  explicit Scales(const TanhNormalParams<T>& p)
      : shared_(p.shared_log_std), width_(p.width), from_(p.log_std), powers_(nullptr) {
    if (!shared_) return;
    const int64_t length = width_ + lanes;
    T* repeated = p.scratch;
    T* powers = p.scratch + length;
    for (int64_t i = 0; i < length; ++i) repeated[i] = p.log_std[i % width_];
    for (int64_t i = 0; i < length; i += lanes) {
      const size_t n = length - i;
      S::store_first(powers + i, exp<S>(T(Sign) * S::load_first(repeated + i, n)), n);
    }
    from_ = repeated;
    powers_ = powers;
    step_ = lanes % width_;
  }

  void next(size_t n, Vec& log_std, Vec& power) {
    if (shared_) {
      log_std = S::load(from_ + at_);
      power = S::load(powers_ + at_);
      at_ += step_;
      if (at_ >= width_) at_ -= width_;
    } else {
      log_std = S::load_first(from_ + at_, n);
      power = exp<S>(T(Sign) * log_std);
      at_ += lanes;
    }
  }

 private:
  const bool shared_;
  const int64_t width_;
  const T* from_;
  const T* powers_;
  int64_t at_ = 0, step_ = 0;
};

// u = artanh a and log(1 − a²), both from ln(1 ± |a|); near zero their difference would lose u's digits.
template <typename S>
void unsquash(typename S::Vec a, typename S::Vec& u, typename S::Vec& log_slope) {
  using T = typename S::Scalar;
  const auto third = S::broadcast(T(1.0 / 3.0));
  const auto magnitude = S::max(a, -a);
  const auto above = T(2) * artanh_third<S>(magnitude / (T(2) + magnitude));
  const auto below = log<S>(T(1) - magnitude);
  const auto far = T(0.5) * (above - below);
  u = S::select(magnitude < third, artanh_third<S>(a), S::select(a < S::broadcast(T(0)), -far, far));
  log_slope = above + below;
}

// Calls block(start, n) for stretches of at most kBlock elements.
template <typename Block>
void each_block(int64_t elements, Block block) {
  for (int64_t start = 0; start < elements; start += kBlock) {
    block(start, elements - start < kBlock ? elements - start : kBlock);
  }
}

template <typename T>
bool no_columns(const TanhNormalParams<T>& p, T* log_prob) {
  if (p.width != 0) return false;
  for (int64_t b = 0; b < p.batch; ++b) log_prob[b] = T(0);
  return true;
}

template <typename S, typename T>
void log_prob(const TanhNormalLogProbArgs<T>& a) {
  using Vec = typename S::Vec;
  const TanhNormalParams<T>& p = a.params;
  const Vec limit = S::broadcast(T(kActionLimit));
  const Vec zero = S::broadcast(T(0));
  Scales<S, -1> scales(p);
  Rows rows(p.width);
  T terms[kBlock];
  each_block(p.batch * p.width, [&](int64_t start, int64_t length) {
    for (int64_t j = 0; j < length; j += S::lanes) {
      const int64_t at = start + j;
      const size_t n = length - j;
      Vec log_std, inverse;
      scales.next(n, log_std, inverse);
      const Vec value = S::load_first(a.value + at, n);
      Vec u = value, tanh = zero, slope_log;
      if (a.squashed) {
        tanh = S::select(value > limit, limit, S::select(value < -limit, -limit, value));
        unsquash<S>(tanh, u, slope_log);
      } else {
        const Folded<S> folded = fold<S>(u);
        slope_log = log_slope<S>(folded);
        if (a.by_value != nullptr) tanh = tanh_of<S>(folded);
      }
      const Vec z = (u - S::load_first(p.mean + at, n)) * inverse;
      S::store(terms + j, (T(-0.5) * z * z - (log_std + T(kHalfLog2Pi))) - slope_log);
      if (a.by_mean != nullptr) {
        S::store_first(a.by_mean + at, z * inverse, n);
        S::store_first(a.by_log_std + at, z * z - T(1), n);
      }
      if (a.by_value != nullptr) {
        Vec gradient = T(2) * tanh - z * inverse;
        if (a.squashed) {
          const auto outside = (value > limit) | (value < -limit);
          gradient = S::select(outside, zero, gradient / ((T(1) - tanh) * (T(1) + tanh)));
        }
        S::store_first(a.by_value + at, gradient, n);
      }
    }
    add_to_rows(rows, terms, start, length, a.log_prob);
  });
}

template <SimdPath Path, typename S, typename T>
void sample(const TanhNormalSampleArgs<T>& a) {
  using Vec = typename S::Vec;
  const TanhNormalParams<T>& p = a.params;
  Scales<S, 1> scales(p);
  Rows rows(p.width);
  float draws[kBlock] = {};
  T noise[kBlock], terms[kBlock];
  each_block(p.batch * p.width, [&](int64_t start, int64_t length) {
    random_normal_cpu<Path>(a.key, a.offset + start / 4, length, draws);
    for (int64_t i = 0; i < kBlock; ++i) noise[i] = draws[i];
    for (int64_t j = 0; j < length; j += S::lanes) {
      const int64_t at = start + j;
      const size_t n = length - j;
      Vec log_std, sigma;
      scales.next(n, log_std, sigma);
      const Vec epsilon = S::load(noise + j);
      const Vec spread = sigma * epsilon;
      const Vec u = S::load_first(p.mean + at, n) + spread;
      const Folded<S> folded = fold<S>(u);
      S::store(terms + j, (T(-0.5) * epsilon * epsilon - (log_std + T(kHalfLog2Pi))) - log_slope<S>(folded));
      S::store_first(a.action + at, tanh_of<S>(folded), n);
      S::store_first(a.pre_tanh + at, u, n);
      if (a.slope != nullptr) {
        const Vec part = T(2) / (T(1) + folded.power);
        S::store_first(a.slope + at, folded.power * part * part, n);
        S::store_first(a.spread + at, spread, n);
      }
    }
    add_to_rows(rows, terms, start, length, a.log_prob);
  });
}

}  // namespace

template <SimdPath Path, typename T>
void tanh_normal_log_prob_cpu(const TanhNormalLogProbArgs<T>& args) {
  if (!no_columns(args.params, args.log_prob)) log_prob<Simd<T>>(args);
}

template <SimdPath Path, typename T>
void tanh_normal_sample_cpu(const TanhNormalSampleArgs<T>& args) {
  if (!no_columns(args.params, args.log_prob)) sample<Path, Simd<T>>(args);
}

template <SimdPath Path, typename T>
void tanh_normal_scale_cpu(int64_t batch, int64_t width, const T* by_row, int64_t count,
                           const T* const* gradients, T* const* out) {
  using S = Simd<T>;
  Rows rows(width);
  T factors[kBlock] = {};
  each_block(batch * width, [&](int64_t start, int64_t length) {
    if (width == 1) {
      for (int64_t i = 0; i < length; ++i) factors[i] = by_row[start + i];
    } else {
      rows.next(length, [&](int64_t row, int64_t from, int64_t n, bool) {
        for (int64_t i = from; i < from + n; ++i) factors[i] = by_row[row];
      });
    }
    for (int64_t k = 0; k < count; ++k) {
      const T* in = gradients[k] + start;
      T* to = out[k] + start;
      for (int64_t j = 0; j < length; j += S::lanes) {
        const size_t n = length - j;
        S::store_first(to + j, S::load(factors + j) * S::load_first(in + j, n), n);
      }
    }
  });
}

template void tanh_normal_log_prob_cpu<kPath>(const TanhNormalLogProbArgs<float>&);
template void tanh_normal_log_prob_cpu<kPath>(const TanhNormalLogProbArgs<double>&);
template void tanh_normal_sample_cpu<kPath>(const TanhNormalSampleArgs<float>&);
template void tanh_normal_sample_cpu<kPath>(const TanhNormalSampleArgs<double>&);
template void tanh_normal_scale_cpu<kPath>(int64_t, int64_t, const float*, int64_t, const float* const*,
                                           float* const*);
template void tanh_normal_scale_cpu<kPath>(int64_t, int64_t, const double*, int64_t, const double* const*,
                                           double* const*);

}  // namespace optix_fast
