// What every learner does with the parameters it trains, around optimizers.h: remember them and put them back, clip
// the gradient, step. For the kernel files only (simd.h says why everything is unnamed).
#pragma once

#include "optimizers.h"
#include "side_by_side.h"
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
    const TrainedParameter<T>& p = trained.parameters[i];
    T* const tensors[] = {p.value, p.target, p.state[0], p.state[1], p.state[2]};
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
    const TrainedParameter<T>& p = trained.parameters[i];
    if (!p.frozen) squares += squared_norm_cpu<Path, T>(p.grad, p.size);
  }
  return __builtin_sqrt(squares);
}

// The targets become copies of the parameters.
template <typename T>
void copy_targets(const Trained<T>& trained) {
  for (int64_t i = 0; i < trained.n; ++i) {
    const TrainedParameter<T>& p = trained.parameters[i];
    copy<T>(p.value, p.size, p.target);
  }
}

// The optimizer's step on parameters first to end, and where tau is positive the targets after it.
template <SimdPath Path, typename T>
void step_on(const Trained<T>& trained, int64_t first, int64_t end, T scale, T tau) {
  for (int64_t i = first; i < end; ++i) {
    TrainedParameter<T>& p = trained.parameters[i];
    if (!p.frozen) {
      optimizer_step_cpu<Path, T>(p, scale, tau);
    } else if (p.target != nullptr && tau > T(0)) {
      follow_cpu<Path, T>(p.value, p.size, tau, p.target);
    }
  }
}

// How many of the first parameters one of two threads takes: about half of all elements. All where a step is
// short, or where the team shares each large one.
template <typename T>
int64_t half_of(const Trained<T>& trained) {
  int64_t all = 0, largest = 0;
  for (int64_t i = 0; i < trained.n; ++i) {
    const int64_t size = trained.parameters[i].size;
    all += size;
    largest = size > largest ? size : largest;
  }
  if (all * kSweepWork < 2 * kTurnWork || members_for(largest * kSweepWork, kMaxTeam) > 1) return trained.n;
  int64_t first = 0, n = 0;
  while (2 * (first + trained.parameters[n].size) <= all) first += trained.parameters[n++].size;
  return n;
}

// g ← g·min(1, max_grad_norm / (‖g‖ + 1e-6)) as torch's clip_grad_norm_, the optimizer's step, and
// where tau is positive the targets after it. False, and nothing changed, where the norm is not finite.
template <SimdPath Path, typename T>
bool clipped_step(const Trained<T>& trained, double max_grad_norm, double tau) {
  const double norm = gradient_norm<Path>(trained);
  if (!finite(norm)) return false;
  const double bounded = max_grad_norm < kInfinity ? max_grad_norm / (norm + 1e-6) : 1.0;
  const T scale = static_cast<T>(bounded < 1.0 ? bounded : 1.0);
  const int64_t n = trained.n, half = half_of(trained);
  const auto step = [&](int part) {
    step_on<Path>(trained, part == 0 ? 0 : half, part == 0 ? half : n, scale, static_cast<T>(tau));
  };
  in_team(half < n ? 2 : 1, step);
  return true;
}

}  // namespace
}  // namespace optix_fast
