// A step of Adam and AdamW on the user's parameters and torch's own optimizer state, in place, and targets that
// follow.
//
// CPU: one thread, or within a TeamScope (threads.h) several for a large parameter. The result is the same for
// every number of threads.
#pragma once

#include <cstdint>

#include "simd_path.h"

namespace optix_fast {

// One parameter tensor, with torch's own optimizer state. Where `step` is null the parameter is frozen: only
// its target follows it.
template <typename T>
struct TrainedParameter {
  T* value;
  T* exp_avg;
  T* exp_avg_sq;
  float* step;
  T* target;  // the same parameter of the target network, or null
  const T* grad;
  int64_t size;
  double lr, beta1, beta2, eps, weight_decay;
  bool decoupled;  // AdamW's weight decay
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

// torch.optim.Adam's and AdamW's step on grad·scale (Kingma & Ba 2015; Loshchilov & Hutter 2019). In the same
// sweep, where there is a target and tau is positive, the target follows as in follow_cpu.
template <SimdPath Path, typename T>
void adam_step_cpu(const TrainedParameter<T>& parameter, T scale, T tau);

// target ← target + tau·(value − target), as torch's lerp_.
template <SimdPath Path, typename T>
void follow_cpu(const T* value, int64_t n, T tau, T* target);

}  // namespace optix_fast
