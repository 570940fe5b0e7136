// exp, log and the sine and cosine of a turn, on the vectors of simd.h.
//
// Each reduces its argument to a short interval and sums a series long enough that what it leaves out is
// below a tenth of a unit in the last place; the error is then that of the rounding, about one unit for float
// and for double. A NaN stays a NaN. tests/test_random.py and tests/ops/test_ppo_loss.py hold them against
// torch.
#pragma once

#include "simd.h"

namespace optix_fast {
namespace {

template <typename T>
struct MathConstants;

template <>
struct MathConstants<float> {
  static constexpr float round_to_int = 0x1.8p23f;  // adding it leaves the nearest integer in the low bits
  static constexpr int mantissa_bits = 23;
  static constexpr int bias = 127;
  static constexpr float ln2_high = 0x1.62e4p-1f;  // 16 bits: exact when multiplied by an exponent
  static constexpr float ln2_low = 0x1.7f7d1cp-20f;
  static constexpr float exp_lowest = -104.0f, exp_highest = 89.0f;  // beyond: 0 and infinity
  static constexpr int exp_terms = 7;
  static constexpr int log_terms = 4;
  static constexpr float smallest_normal = 0x1p-126f, lift = 0x1p25f;
  static constexpr int lift_exponent = 25;
  static constexpr int turn_terms = 5;
};

template <>
struct MathConstants<double> {
  static constexpr double round_to_int = 0x1.8p52;
  static constexpr int mantissa_bits = 52;
  static constexpr int bias = 1023;
  static constexpr double ln2_high = 0x1.62e42feep-1;  // 32 bits
  static constexpr double ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr double exp_lowest = -746.0, exp_highest = 710.0;
  static constexpr int exp_terms = 13;
  static constexpr int log_terms = 10;
  static constexpr double smallest_normal = 0x1p-1022, lift = 0x1p54;
  static constexpr int lift_exponent = 54;
  static constexpr int turn_terms = 9;
};

constexpr double factorial(int n) { return n < 2 ? 1.0 : n * factorial(n - 1); }

// e^x = 2^n · e^r with |r| ≤ ln2 / 2; `refine` may add to r what x itself has no digits for.
template <typename S, typename Refine>
[[gnu::always_inline]] inline typename S::Vec exp_refined(typename S::Vec x, Refine refine) {
  using T = typename S::Scalar;
  using C = MathConstants<T>;
  x = S::select(x < S::broadcast(C::exp_lowest), S::broadcast(C::exp_lowest), x);
  x = S::select(x > S::broadcast(C::exp_highest), S::broadcast(C::exp_highest), x);
  const auto shifted = x * T(1.4426950408889634) + C::round_to_int;
  const auto n = S::bits(shifted) - S::bits(S::broadcast(C::round_to_int));
  const auto whole = shifted - C::round_to_int;
  const auto r = refine((x - whole * C::ln2_high) - whole * C::ln2_low);
  auto sum = S::broadcast(T(1.0 / factorial(C::exp_terms)));
  for (int k = C::exp_terms - 1; k >= 0; --k) sum = sum * r + T(1.0 / factorial(k));
  // 2^n in two factors: n reaches past the exponents of a normal number on both sides.
  const auto half = n >> 1;
  const auto rest = n - half;
  const auto power = [](typename S::Mask e) { return S::from_bits((e + C::bias) << C::mantissa_bits); };
  return sum * power(half) * power(rest);
}

template <typename S>
[[gnu::always_inline]] inline typename S::Vec exp(typename S::Vec x) {
  return exp_refined<S>(x, [](typename S::Vec r) { return r; });
}

template <typename S>
[[gnu::always_inline]] inline typename S::Vec magnitude(typename S::Vec x) {
  using T = typename S::Scalar;
  return S::from_bits(S::bits(x) & ~S::bits(S::broadcast(T(-0.0))));
}

// e^(−½x²). The rounding of x² alone would cost |x|²/2 units: the upper half of x's digits has an exact
// square, and what it leaves out is added to the reduced argument. |x| of at most 15 for float, 40 for double.
template <typename S>
typename S::Vec exp_half_square(typename S::Vec x) {
  using T = typename S::Scalar;
  using C = MathConstants<T>;
  const auto low_half =
      S::bits(S::broadcast(T(0))) + ((typename S::Int(1) << (C::mantissa_bits + 2) / 2) - 1);
  const auto upper = S::from_bits(S::bits(x) & ~low_half);
  const auto low = T(-0.5) * ((x - upper) * (x + upper));
  return exp_refined<S>(T(-0.5) * (upper * upper), [=](typename S::Vec r) { return r + low; });
}

// ln x = e·ln2 + 2·artanh(s), s = (m − 1)/(m + 1), with x = 2^e · m and √½ ≤ m < √2.
template <typename S>
[[gnu::always_inline]] inline typename S::Vec log(typename S::Vec x) {
  using T = typename S::Scalar;
  using Int = typename S::Int;
  using C = MathConstants<T>;
  const auto one = S::broadcast(T(1));
  const auto zero = S::broadcast(T(0));
  const auto tiny = x < S::broadcast(C::smallest_normal);
  const auto normal = S::select(tiny, x * C::lift, x);
  // Subtracting the bits of √½ before the shift rounds the exponent so that m lands in that interval.
  const auto root_half = S::bits(S::broadcast(T(0.70710678118654752)));
  auto exponent = (S::bits(normal) - root_half) >> C::mantissa_bits;
  const auto m = S::from_bits(S::bits(normal) - (exponent << C::mantissa_bits));
  exponent = exponent - (tiny & Int(C::lift_exponent));
  const auto e = S::from_bits(exponent + S::bits(S::broadcast(C::round_to_int))) - C::round_to_int;
  const auto s = (m - one) / (m + one);
  const auto z = s * s;
  auto sum = S::broadcast(T(1.0 / (2 * C::log_terms + 1)));
  for (int k = C::log_terms - 1; k >= 1; --k) sum = sum * z + T(1.0 / (2 * k + 1));
  auto result = e * C::ln2_high + (T(2) * s + (T(2) * s * z * sum + e * C::ln2_low));
  const auto infinity = S::broadcast(T(__builtin_inf()));
  result = S::select(x == infinity, infinity, result);
  result = S::select(x == zero, -infinity, result);
  return S::select((x < zero) | (x != x), S::broadcast(T(__builtin_nan(""))), result);
}

// sin and cos of 2π·turn for 0 ≤ turn ≤ 1: the quarter nearest is split off exactly, a series takes the rest.
template <typename S>
void sincos_turn(typename S::Vec turn, typename S::Vec& sine, typename S::Vec& cosine) {
  using T = typename S::Scalar;
  using Int = typename S::Int;
  using C = MathConstants<T>;
  const auto quarters = turn * T(4);
  const auto shifted = quarters + C::round_to_int;
  const auto quadrant = S::bits(shifted) - S::bits(S::broadcast(C::round_to_int));
  const auto angle = (quarters - (shifted - C::round_to_int)) * T(1.5707963267948966);
  const auto z = angle * angle;
  auto sin_sum = S::broadcast(T(0));
  auto cos_sum = S::broadcast(T(0));
  for (int k = C::turn_terms; k >= 1; --k) {
    const double sign = k % 2 ? -1.0 : 1.0;
    sin_sum = sin_sum * z + T(sign / factorial(2 * k + 1));
    cos_sum = cos_sum * z + T(sign / factorial(2 * k));
  }
  const auto s = angle + angle * z * sin_sum;
  const auto c = T(1) + z * cos_sum;
  const auto swap = (quadrant & Int(1)) != 0;
  const auto sin_negative = (quadrant & Int(2)) != 0;
  const auto cos_negative = ((quadrant + Int(1)) & Int(2)) != 0;
  sine = S::select(swap, c, s);
  cosine = S::select(swap, s, c);
  sine = S::select(sin_negative, -sine, sine);
  cosine = S::select(cos_negative, -cosine, cosine);
}

// |u|, and e^(−2|u|) with the same less one: what the functions of tanh share. Near zero the last
// keeps the digits that subtracting 1 would lose.
template <typename S>
struct Folded {
  typename S::Vec magnitude, power, less_one;
  typename S::Mask sign;
};

template <typename S>
[[gnu::always_inline]] inline Folded<S> fold(typename S::Vec u) {
  using T = typename S::Scalar;
  using C = MathConstants<T>;
  Folded<S> result;
  result.magnitude = magnitude<S>(u);
  result.sign = S::bits(u) ^ S::bits(result.magnitude);
  // Below the smallest normal number the power is as good as zero.
  const auto lowest = S::broadcast(T(1 - C::bias) * T(0.69314718055994531));
  auto x = T(-2) * result.magnitude;
  x = S::select(x < lowest, lowest, x);
  const auto shifted = x * T(1.4426950408889634) + C::round_to_int;
  const auto n = S::bits(shifted) - S::bits(S::broadcast(C::round_to_int));
  const auto whole = shifted - C::round_to_int;
  const auto r = (x - whole * C::ln2_high) - whole * C::ln2_low;
  auto sum = S::broadcast(T(1.0 / factorial(C::exp_terms)));
  for (int k = C::exp_terms - 1; k >= 1; --k) sum = sum * r + T(1.0 / factorial(k));
  const auto scale = S::from_bits((n + C::bias) << C::mantissa_bits);
  const auto rest = scale * (sum * r);
  result.power = scale + rest;
  result.less_one = (scale - T(1)) + rest;
  return result;
}

// tanh u = (1 − e^(−2|u|)) / (1 + e^(−2|u|)), with the sign of u.
template <typename S>
typename S::Vec tanh_of(const Folded<S>& u) {
  using T = typename S::Scalar;
  const auto magnitude = (T(0) - u.less_one) / (T(1) + u.power);
  return S::from_bits(S::bits(magnitude) | u.sign);
}

// artanh x for |x| ≤ ⅓: a series in x².
template <typename S>
[[gnu::always_inline]] inline typename S::Vec artanh_third(typename S::Vec x) {
  using T = typename S::Scalar;
  constexpr int terms = sizeof(T) == sizeof(float) ? 7 : 16;
  const auto z = x * x;
  auto sum = S::broadcast(T(1.0 / (2 * terms + 1)));
  for (int k = terms - 1; k >= 1; --k) sum = sum * z + T(1.0 / (2 * k + 1));
  return x + x * z * sum;
}

// log(1 − tanh²u) = 2·(ln 2 − |u| − ln(1 + t)); ln(1 + t) = 2·artanh(t/(2 + t)), of at most ⅓.
template <typename S>
typename S::Vec log_slope(const Folded<S>& u) {
  using T = typename S::Scalar;
  const auto half = artanh_third<S>(u.power / (T(2) + u.power));
  return T(2) * ((T(0.69314718055994531) - u.magnitude) - T(2) * half);
}

}  // namespace
}  // namespace optix_fast
