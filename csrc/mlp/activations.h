// The activations and their derivatives, on blocks of vectors.
//
// Values, derivatives and their one-sided choice at a bend are torch's. A NaN stays one in the value.
//
// float's tanh is an odd rational function x·P(x²)/Q(x²), and Mills' ratio, which GELU's tail hangs on, one of
// |x|; both are fitted here to the smallest relative error (2·10⁻⁸, the rest is rounding: 4·10⁻⁷ in all).
// double, which only proves parity, takes continued fractions and a series at full precision instead of speed.
#pragma once

#include "lanes.h"
#include "mlp.h"
#include "simd_math.h"

namespace optix_fast {
namespace {

template <typename S, int N>
typename S::Vec polynomial(typename S::Vec z, const float (&coefficients)[N]) {
  typename S::Vec sum = S::broadcast(coefficients[N - 1]);
#pragma GCC unroll 8
  for (int k = N - 2; k >= 0; --k) sum = sum * z + coefficients[k];
  return sum;
}

template <typename S>
typename S::Vec tanh(typename S::Vec x) {
  using T = typename S::Scalar;
  if constexpr (sizeof(T) == 4) {
    constexpr float p[] = {0.9999999791904725f, 0.13379740458157138f, 0.003494060489304636f,
                           2.05838766349567e-05f, 1.3319562511542244e-08f};
    constexpr float q[] = {1.0f, 0.46713055746484206f, 0.025871173928562544f, 0.0003283133880490945f,
                           7.762232263315582e-07f};
    x = limit<S>(x, 9.02f);
    const auto z = x * x;
    // The quotient may round to just over 1.
    return limit<S>(divide<S>(x * polynomial<S>(z, p), polynomial<S>(z, q)), 1.0f);
  } else {
    // Lambert's fraction x/(1 + x²/(3 + x²/(5 + …))) near zero, where the other form cancels.
    const auto near = (x > S::broadcast(T(-0.6))) & (x < S::broadcast(T(0.6)));
    auto fraction = S::broadcast(T(21));
    for (int k = 19; k >= 1; k -= 2) fraction = T(k) + x * x / fraction;
    return S::select(near, x / fraction, T(1) - T(2) / (exp<S>(T(2) * x) + T(1)));
  }
}

// The standard normal distribution: Φ(z), and its density φ(z).
template <typename S>
struct Normal {
  typename S::Vec distribution, density;
};

// Φ(−|z|) = φ(z)·M(|z|) with Mills' ratio M, so that the tail keeps its digits.
template <typename S>
[[gnu::always_inline]] inline Normal<S> normal(typename S::Vec z) {
  using T = typename S::Scalar;
  // Beyond, φ is zero, but a power of z might be infinite.
  const auto far = S::broadcast(T(sizeof(T) == 4 ? 15 : 40));
  auto x = magnitude<S>(z);
  x = S::select(x > far, far, x);
  const auto power = exp_half_square<S>(x);
  auto tail = x;
  if constexpr (sizeof(T) == 4) {
    constexpr float p[] = {0.5000000031480756f, 0.43928227693263083f, 0.18396823740898216f,
                           0.04088081106027243f, 0.004153179299137413f};
    constexpr float q[] = {1.0f,
                           1.6764495607620091f,
                           1.2055446385384765f,
                           0.4714063088657823f,
                           0.10247911357134853f,
                           0.01041036499312422f};
    tail = power * divide<S>(polynomial<S>(x, p), polynomial<S>(x, q));
  } else {
    // Laplace's fraction 1/(x + 1/(x + 2/(x + 3/(x + …)))), and near zero, where it converges too slowly,
    // ½ − φ·(x + x³/3 + x⁵/(3·5) + …), whose terms are positive.
    auto fraction = x;
    for (int k = 160; k >= 1; --k) fraction = x + T(k) / fraction;
    auto term = x, sum = x;
    for (int n = 1; n < 30; ++n) {
      term = term * (x * x / T(2 * n + 1));
      sum = sum + term;
    }
    const auto density = T(0.3989422804014327) * power;
    tail = S::select(x < S::broadcast(T(1.5)), T(0.5) - density * sum, density / fraction);
  }
  const auto upper = T(1) - tail;
  return {S::select(z < S::broadcast(0), tail, upper), T(0.3989422804014327) * power};
}

// e^(−|z|) and from it 1/(1 + e^(−z)): nothing overflows, and the left tail keeps its digits.
template <typename S>
[[gnu::always_inline]] inline typename S::Vec sigmoid(typename S::Vec z) {
  const auto power = exp<S>(-magnitude<S>(z));
  return divide<S>(S::select(z < S::broadcast(0), power, S::broadcast(1)), S::broadcast(1) + power);
}

// ln(1 + e^(−|z|)).
template <typename S>
[[gnu::always_inline]] inline typename S::Vec log_one_plus_power(typename S::Vec z) {
  using T = typename S::Scalar;
  const auto power = exp<S>(-magnitude<S>(z));
  return T(2) * artanh_third<S>(divide<S>(power, T(2) + power));
}

// (z + 3)/6 between 0 and 1.
template <typename S>
typename S::Vec ramp(typename S::Vec z) {
  using T = typename S::Scalar;
  const auto low = S::broadcast(0), high = S::broadcast(6);
  z = z + T(3);
  z = S::select(z < low, low, z);
  return S::select(z > high, high, z) * T(1.0 / 6.0);
}

// f(z) and f'(z), the latter from y = f(z) or, where keeps_input says so, from z.

template <typename S>
struct Identity {
  static constexpr bool keeps_input = false;
  typename S::Vec value(typename S::Vec z) const { return z; }
  typename S::Vec slope(typename S::Vec) const { return S::broadcast(1); }
};

template <typename S>
struct Tanh {
  static constexpr bool keeps_input = false;
  typename S::Vec value(typename S::Vec z) const { return tanh<S>(z); }
  typename S::Vec slope(typename S::Vec y) const { return S::broadcast(1) - y * y; }
};

// z ≤ 0 rather than z > 0: a NaN stays one.
template <typename S>
struct Relu {
  static constexpr bool keeps_input = false;
  typename S::Vec value(typename S::Vec z) const {
    return S::select(z <= S::broadcast(0), S::broadcast(0), z);
  }
  typename S::Vec slope(typename S::Vec y) const {
    return S::select(y <= S::broadcast(0), S::broadcast(0), S::broadcast(1));
  }
};

template <typename S>
struct LeakyRelu {
  static constexpr bool keeps_input = false;
  typename S::Scalar below;
  typename S::Vec value(typename S::Vec z) const { return S::select(z <= S::broadcast(0), below * z, z); }
  typename S::Vec slope(typename S::Vec y) const {
    return S::select(y > S::broadcast(0), S::broadcast(1), S::broadcast(below));
  }
};

// ELU, CELU and SELU: scale·z above zero, scale·α·(e^(rate·z) − 1) below.
template <typename S>
struct Elu {
  static constexpr bool keeps_input = false;
  using T = typename S::Scalar;
  T alpha, scale, rate;
  typename S::Vec value(typename S::Vec z) const {
    // e^u − 1 by way of tanh(u/2), which does not cancel near zero.
    const auto t = tanh<S>((T(0.5) * rate) * z);
    const auto below = T(2) * t / (S::broadcast(1) - t);
    return S::select(z <= S::broadcast(0), (alpha * scale) * below, scale * z);
  }
  typename S::Vec slope(typename S::Vec y) const {
    return S::select(y > S::broadcast(0), S::broadcast(scale), rate * (y + alpha * scale));
  }
};

template <typename S>
struct Hardtanh {
  static constexpr bool keeps_input = false;
  typename S::Scalar lowest, highest;
  typename S::Vec value(typename S::Vec z) const {
    z = S::select(z < S::broadcast(lowest), S::broadcast(lowest), z);
    return S::select(z > S::broadcast(highest), S::broadcast(highest), z);
  }
  typename S::Vec slope(typename S::Vec y) const {
    const auto outside = (y <= S::broadcast(lowest)) | (y >= S::broadcast(highest));
    return S::select(outside, S::broadcast(0), S::broadcast(1));
  }
};

template <typename S>
struct Sigmoid {
  static constexpr bool keeps_input = false;
  typename S::Vec value(typename S::Vec z) const { return sigmoid<S>(z); }
  typename S::Vec slope(typename S::Vec y) const { return y * (S::broadcast(1) - y); }
};

template <typename S>
struct Silu {
  static constexpr bool keeps_input = true;
  typename S::Vec value(typename S::Vec z) const { return z * sigmoid<S>(z); }
  typename S::Vec slope(typename S::Vec z) const {
    const auto s = sigmoid<S>(z);
    return s * (S::broadcast(1) + z * (S::broadcast(1) - s));
  }
};

template <typename S>
struct Gelu {
  static constexpr bool keeps_input = true;
  typename S::Vec value(typename S::Vec z) const { return z * normal<S>(z).distribution; }
  typename S::Vec slope(typename S::Vec z) const {
    const Normal<S> at = normal<S>(z);
    return at.distribution + z * at.density;
  }
};

// ½(1 + tanh u) is the sigmoid of 2u, which does not cancel for negative u.
template <typename S>
struct GeluTanh {
  static constexpr bool keeps_input = true;
  using T = typename S::Scalar;
  static constexpr T scale = T(1.5957691216057308), cubic = T(0.044715);  // 2·√(2/π)
  static typename S::Vec gate(typename S::Vec z) { return sigmoid<S>(scale * (z + cubic * z * z * z)); }
  typename S::Vec value(typename S::Vec z) const { return z * gate(z); }
  typename S::Vec slope(typename S::Vec z) const {
    const auto s = gate(z);
    return s + z * s * (S::broadcast(1) - s) * scale * (S::broadcast(1) + T(3) * cubic * z * z);
  }
};

// ln(1 + e^(βz))/β, and z itself where βz exceeds the threshold.
template <typename S>
struct Softplus {
  static constexpr bool keeps_input = true;
  typename S::Scalar beta, threshold;
  typename S::Vec value(typename S::Vec z) const {
    const auto u = beta * z, zero = S::broadcast(0);
    const auto soft = (S::select(u < zero, zero, u) + log_one_plus_power<S>(u)) / S::broadcast(beta);
    return S::select(u > S::broadcast(threshold), z, soft);
  }
  typename S::Vec slope(typename S::Vec z) const {
    const auto u = beta * z;
    return S::select(u > S::broadcast(threshold), S::broadcast(1), sigmoid<S>(u));
  }
};

template <typename S>
struct LogSigmoid {
  static constexpr bool keeps_input = true;
  typename S::Vec value(typename S::Vec z) const {
    const auto zero = S::broadcast(0);
    return S::select(z > zero, zero, z) - log_one_plus_power<S>(z);
  }
  typename S::Vec slope(typename S::Vec z) const { return sigmoid<S>(-z); }
};

// z·tanh(ln(1 + e^z)). With p = e^(−|z|) the tanh is n/d, in which neither cancels nor overflows:
//   z ≥ 0:  n = 1 + 2p,     d = n + 2p²,   f' = n/d + 4z·p²·(1 + p)/d²
//   z < 0:  n = p·(p + 2),  d = n + 2,     f' = n/d + 4z·p·(1 + p)/d²
template <typename S>
struct Mish {
  static constexpr bool keeps_input = true;
  using T = typename S::Scalar;
  struct Parts {
    typename S::Mask negative;
    typename S::Vec power, numerator, denominator;
  };
  static Parts parts(typename S::Vec z) {
    const auto p = exp<S>(-magnitude<S>(z));
    const auto negative = z < S::broadcast(0);
    const auto n = S::select(negative, p * (p + T(2)), T(1) + T(2) * p);
    return {negative, p, n, n + T(2) * S::select(negative, S::broadcast(1), p * p)};
  }
  typename S::Vec value(typename S::Vec z) const {
    const Parts at = parts(z);
    return z * divide<S>(at.numerator, at.denominator);
  }
  typename S::Vec slope(typename S::Vec z) const {
    const Parts at = parts(z);
    const auto p = at.power, inverse = divide<S>(S::broadcast(1), at.denominator);
    const auto factor = S::select(at.negative, p, p * p) * (T(1) + p);
    return inverse * (at.numerator + (T(4) * z) * (factor * inverse));
  }
};

template <typename S>
struct Softsign {
  static constexpr bool keeps_input = true;
  typename S::Vec value(typename S::Vec z) const { return z / (S::broadcast(1) + magnitude<S>(z)); }
  typename S::Vec slope(typename S::Vec z) const {
    const auto inverse = S::broadcast(1) / (S::broadcast(1) + magnitude<S>(z));
    return inverse * inverse;
  }
};

// From z, because z + 3 may round to 6 where z is still below 3.
template <typename S>
struct Hardsigmoid {
  static constexpr bool keeps_input = true;
  using T = typename S::Scalar;
  typename S::Vec value(typename S::Vec z) const { return ramp<S>(z); }
  typename S::Vec slope(typename S::Vec z) const {
    const auto inside = (z > S::broadcast(-3)) & (z < S::broadcast(3));
    return S::select(inside, S::broadcast(T(1.0 / 6.0)), S::broadcast(0));
  }
};

template <typename S>
struct Hardswish {
  static constexpr bool keeps_input = true;
  using T = typename S::Scalar;
  typename S::Vec value(typename S::Vec z) const { return z * ramp<S>(z); }
  typename S::Vec slope(typename S::Vec z) const {
    const auto inside = z * T(1.0 / 3.0) + T(0.5);
    return S::select(z <= S::broadcast(-3), S::broadcast(0),
                     S::select(z >= S::broadcast(3), S::broadcast(1), inside));
  }
};

// Calls work(f) with the activation as one of the types above.
template <typename S, typename Work>
void with_activation(Activation kind, const typename S::Scalar* constants, Work work) {
  using T = typename S::Scalar;
  switch (kind) {
    case Activation::identity:
      return work(Identity<S>{});
    case Activation::tanh:
      return work(Tanh<S>{});
    case Activation::relu:
      return work(Relu<S>{});
    case Activation::leaky_relu:
      return work(LeakyRelu<S>{constants[0]});
    case Activation::elu:
      return work(Elu<S>{constants[0], T(1), T(1)});
    case Activation::celu:
      return work(Elu<S>{constants[0], T(1), T(1) / constants[0]});
    case Activation::selu:
      return work(Elu<S>{T(1.6732632423543772848170429916717), T(1.0507009873554804934193349852946), T(1)});
    case Activation::hardtanh:
      return work(Hardtanh<S>{constants[0], constants[1]});
    case Activation::sigmoid:
      return work(Sigmoid<S>{});
    case Activation::silu:
      return work(Silu<S>{});
    case Activation::gelu:
      return work(Gelu<S>{});
    case Activation::gelu_tanh:
      return work(GeluTanh<S>{});
    case Activation::softplus:
      return work(Softplus<S>{constants[0], constants[1]});
    case Activation::log_sigmoid:
      return work(LogSigmoid<S>{});
    case Activation::mish:
      return work(Mish<S>{});
    case Activation::softsign:
      return work(Softsign<S>{});
    case Activation::hardsigmoid:
      return work(Hardsigmoid<S>{});
    case Activation::hardswish:
      return work(Hardswish<S>{});
  }
}

}  // namespace
}  // namespace optix_fast
