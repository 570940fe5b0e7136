// What every learner does with the parameters it trains, around mlp.h: remember them and put them back, clip
// the gradient, step. For the kernel files only (simd.h says why everything is unnamed).
#pragma once

#include "mlp.h"
#include "simd.h"

namespace optix_fast {
namespace {

constexpr double kInfinity = __builtin_inf();

inline bool finite(double x) { return x - x == 0.0; }

template <typename T>
inline void copy(const T* from, int64_t n, T* to) {
  __builtin_memcpy(to, from, n * sizeof(T));
}

// Parameters, optimizer state and targets to where they are kept, or back.
template <typename T>
void exchange_saved(const Trained<T>& trained, bool restore) {
  T* saved = trained.saved;
  for (int64_t i = 0; i < trained.n; ++i) {
    const AdamParameter<T>& p = trained.parameters[i];
    T* const tensors[] = {p.value, p.exp_avg, p.exp_avg_sq, p.target};
    for (T* live : tensors) {
      if (live == nullptr) continue;
      restore ? copy<T>(saved, p.size, live) : copy<T>(live, p.size, saved);
      saved += p.size;
    }
    if (p.step == nullptr) continue;
    float* step = trained.saved_steps + i;
    restore ? copy<float>(step, 1, p.step) : copy<float>(p.step, 1, step);
  }
}

// ‖g‖ over everything that is not frozen.
template <SimdPath Path, typename T>
double gradient_norm(const Trained<T>& trained) {
  double squares = 0.0;
  for (int64_t i = 0; i < trained.n; ++i) {
    const AdamParameter<T>& p = trained.parameters[i];
    if (p.step != nullptr) squares += squared_norm_cpu<Path, T>(p.grad, p.size);
  }
  return __builtin_sqrt(squares);
}

// The targets become copies of the parameters.
template <typename T>
void copy_targets(const Trained<T>& trained) {
  for (int64_t i = 0; i < trained.n; ++i) {
    const AdamParameter<T>& p = trained.parameters[i];
    copy<T>(p.value, p.size, p.target);
  }
}

// g ← g·min(1, max_grad_norm / (‖g‖ + 1e-6)) as torch's clip_grad_norm_, Adam, and where tau is positive the
// targets after it. False, and nothing changed, where the norm is not finite.
template <SimdPath Path, typename T>
bool clipped_step(const Trained<T>& trained, double max_grad_norm, double tau) {
  const double norm = gradient_norm<Path>(trained);
  if (!finite(norm)) return false;
  const double scale = max_grad_norm < kInfinity ? max_grad_norm / (norm + 1e-6) : 1.0;
  for (int64_t i = 0; i < trained.n; ++i) {
    const AdamParameter<T>& p = trained.parameters[i];
    if (p.step != nullptr) {
      adam_step_cpu<Path, T>(p, static_cast<T>(scale < 1.0 ? scale : 1.0), static_cast<T>(tau));
    } else if (p.target != nullptr && tau > 0.0) {
      follow_cpu<Path, T>(p.value, p.size, static_cast<T>(tau), p.target);
    }
  }
  return true;
}

}  // namespace
}  // namespace optix_fast
