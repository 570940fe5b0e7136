// The activations and their derivatives, on blocks of vectors.
//
// float's tanh and erf are odd rational functions x·P(x²)/Q(x²), fitted here to the smallest relative error
// (2·10⁻⁸, the rest is rounding: 4·10⁻⁷ in all) on the interval beyond which they round to 1. double, which
// only proves parity, takes a continued fraction and a series at full precision instead of speed.
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
    return divide<S>(x * polynomial<S>(z, p), polynomial<S>(z, q));
  } else {
    // Lambert's fraction x/(1 + x²/(3 + x²/(5 + …))) near zero, where the other form cancels.
    const auto near = (x > S::broadcast(T(-0.6))) & (x < S::broadcast(T(0.6)));
    auto fraction = S::broadcast(T(21));
    for (int k = 19; k >= 1; k -= 2) fraction = T(k) + x * x / fraction;
    return S::select(near, x / fraction, T(1) - T(2) / (exp<S>(T(2) * x) + T(1)));
  }
}

template <typename S>
typename S::Vec erf(typename S::Vec x) {
  using T = typename S::Scalar;
  if constexpr (sizeof(T) == 4) {
    constexpr float p[] = {1.1283791463171016f,    0.19040194989303558f,   0.05274813475680058f,
                           0.0037654241100609975f, 0.0002848785392597709f, 2.0501249452706226e-06f};
    constexpr float q[] = {1.0f,
                           0.5020720771816797f,
                           0.11410725167747329f,
                           0.014968832712465746f,
                           0.00116248888808348f,
                           3.809188415667854e-05f};
    x = limit<S>(x, 3.92f);
    const auto z = x * x;
    const auto inside = divide<S>(x * polynomial<S>(z, p), polynomial<S>(z, q));
    // Exactly ±1 beyond: GELU multiplies what is missing to −1 by z.
    const auto outside = S::select(x >= S::broadcast(3.92f), S::broadcast(1), inside);
    return S::select(x <= S::broadcast(-3.92f), S::broadcast(-1), outside);
  } else {
    // 2/√π·e^(−x²)·Σ 2ⁿ·x^(2n+1)/(2n+1)!!: every term is positive, so nothing cancels.
    x = limit<S>(x, T(6));
    auto term = x;
    auto sum = x;
    for (int n = 1; n < 120; ++n) {
      term = term * (T(2) * x * x / T(2 * n + 1));
      sum = sum + term;
    }
    return T(1.1283791670955126) * exp<S>(-x * x) * sum;
  }
}

template <typename S>
typename S::Vec sigmoid(typename S::Vec z) {
  return S::broadcast(1) / (exp<S>(-z) + S::broadcast(1));
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
    return S::select(y > S::broadcast(0), S::broadcast(1), S::broadcast(0));
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

template <typename S>
struct Elu {
  static constexpr bool keeps_input = false;
  typename S::Scalar alpha;
  typename S::Vec value(typename S::Vec z) const {
    // e^z − 1 by way of tanh(z/2), which does not cancel near zero.
    const auto t = tanh<S>(typename S::Scalar(0.5) * z);
    const auto below = typename S::Scalar(2) * t / (S::broadcast(1) - t);
    return S::select(z <= S::broadcast(0), alpha * below, z);
  }
  typename S::Vec slope(typename S::Vec y) const {
    return S::select(y > S::broadcast(0), S::broadcast(1), y + alpha);
  }
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
  using T = typename S::Scalar;
  static typename S::Vec distribution(typename S::Vec z) {
    return T(0.5) * (S::broadcast(1) + erf<S>(z * T(0.70710678118654752)));
  }
  typename S::Vec value(typename S::Vec z) const { return z * distribution(z); }
  typename S::Vec slope(typename S::Vec z) const {
    const auto density = T(0.39894228040143268) * exp<S>(T(-0.5) * z * z);
    return distribution(z) + z * density;
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

// Calls work(f) with the activation as one of the types above.
template <typename S, typename Work>
void with_activation(Activation kind, typename S::Scalar parameter, Work work) {
  switch (kind) {
    case Activation::identity:
      return work(Identity<S>{});
    case Activation::tanh:
      return work(Tanh<S>{});
    case Activation::relu:
      return work(Relu<S>{});
    case Activation::leaky_relu:
      return work(LeakyRelu<S>{parameter});
    case Activation::elu:
      return work(Elu<S>{parameter});
    case Activation::silu:
      return work(Silu<S>{});
    case Activation::gelu:
      return work(Gelu<S>{});
    case Activation::gelu_tanh:
      return work(GeluTanh<S>{});
  }
}

}  // namespace
}  // namespace optix_fast
