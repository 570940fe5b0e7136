// Steps of torch's optimizers on the user's own parameters and optimizer state, in place; g is the gradient,
// scaled by the caller's clipping, with weight_decay·x added (not for adamw).
//
//   adam        m ← m + (1 − β₁)(g − m),  v ← β₂v + (1 − β₂)g²
//               x ← x − lr/(1 − β₁ᵗ)·m / (√(v/(1 − β₂ᵗ)) + ε)               Kingma & Ba 2015
//   adamw       x ← x − lr·weight_decay·x first                             Loshchilov & Hutter 2019
//   sgd         b ← momentum·b + (1 − dampening)·g, at first b ← g;  x ← x − lr·b
//               nesterov: x ← x − lr·(g + momentum·b)
//   rmsprop     v ← αv + (1 − α)g²;  d = √v + ε;  x ← x − lr·g/d            Tieleman & Hinton 2012
//               centered: ḡ ← ḡ + (1 − α)(g − ḡ),  d = √(v − ḡ²) + ε
//               momentum: b ← momentum·b + g/d,  x ← x − lr·b
//   rmsprop_tf  d = √(v + ε), centered √(v − ḡ² + ε)                        RMSpropTF, optix_fast/optimizers.py
//
// CPU: one thread, or within a TeamScope (threads.h) several for a large parameter. The result is the same for
// every number of threads.
#pragma once

#include <cstdint>

#include "simd_path.h"

namespace optix_fast {

// The names are Python's.
enum class OptimizerKind : uint8_t { adam, adamw, sgd, rmsprop, rmsprop_tf };
constexpr const char* kOptimizerNames[] = {"adam", "adamw", "sgd", "rmsprop", "rmsprop_tf"};

constexpr int kMostStates = 3;

// One parameter tensor, with torch's own optimizer state.
template <typename T>
struct TrainedParameter {
  T* value;
  T* target;  // the same parameter of the target network, or null
  const T* grad;
  int64_t size;
  bool frozen;  // only its target follows it, and nothing below is read

  OptimizerKind kind;
  T* state[kMostStates];  // adam: m, v; sgd: b; rmsprop: v, then b and ḡ; null where there are fewer
  float* step;            // t, or null
  bool begins;            // sgd: b holds zeros and nothing yet
  double lr, weight_decay, eps, alpha, momentum, dampening, beta1, beta2;
  bool nesterov, centered;
};

constexpr int64_t kSweepWork = 32;  // multiply-adds that take as long as the step of one element

// The parameters that one optimizer trains, and where a learner keeps them for the case that it fails.
template <typename T>
struct Trained {
  TrainedParameter<T>* parameters = nullptr;
  int64_t n = 0;
  T* saved = nullptr;
  float* saved_steps = nullptr;
};

// Σ g² over all elements, in double.
template <SimdPath Path, typename T>
double squared_norm_cpu(const T* values, int64_t n);

// The step of its optimizer on grad·scale. In the same sweep, where there is a target and tau is positive, the
// target follows as in follow_cpu.
template <SimdPath Path, typename T>
void optimizer_step_cpu(TrainedParameter<T>& parameter, T scale, T tau);

// target ← target + tau·(value − target), as torch's lerp_.
template <SimdPath Path, typename T>
void follow_cpu(const T* value, int64_t n, T tau, T* target);

}  // namespace optix_fast
