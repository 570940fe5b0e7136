// The action distributions of ppo_loss, each over one block of samples, one sample per lane.
//
// A policy turns the parameters of a block into log-probabilities and entropies (forward), keeps what the
// gradient needs in scratch, and turns the loss's derivatives by those two into the gradient of the
// parameters (backward, for the block that forward saw last).
#pragma once

#include "ppo_loss.h"
#include "simd_math.h"

namespace optix_fast {
namespace {

// rows × width elements, sample-major in memory, into scratch with one vector per column; lanes without a
// sample become zero.
template <typename S, typename T>
void gather_columns(const T* from, int64_t stride, int64_t width, size_t rows, T* to) {
  for (int64_t k = 0; k < width; ++k) {
    for (size_t i = 0; i < S::lanes; ++i) to[k * S::lanes + i] = i < rows ? from[i * stride + k] : T(0);
  }
}

// The way back, for one column.
template <typename S, typename T>
void scatter_column(typename S::Vec column, size_t rows, T* to, int64_t stride) {
  T lane[S::lanes];
  S::store(lane, column);
  for (size_t i = 0; i < rows; ++i) to[i * stride] = lane[i];
}

template <typename S>
class CategoricalPolicy {
 public:
  using T = typename S::Scalar;
  using Vec = typename S::Vec;

  explicit CategoricalPolicy(const PpoLossArgs<T>& args)
      : a_(args), n_(args.actions_width), logits_(args.scratch), weights_(args.scratch + n_ * S::lanes) {}

  void forward(int64_t row, size_t rows, Vec& log_prob, Vec& entropy) {
    gather_columns<S>(a_.params + row * n_, n_, n_, rows, logits_);
    if (a_.action_mask != nullptr) apply_mask(row, rows);
    Vec largest = S::load(logits_);
    for (int64_t k = 1; k < n_; ++k) largest = S::max(S::load(logits_ + k * S::lanes), largest);
    const Vec zero = S::broadcast(T(0));
    Vec total = zero, weighted = zero;
    for (int64_t k = 0; k < n_; ++k) {
      const Vec shifted = S::load(logits_ + k * S::lanes) - largest;
      const Vec weight = exp<S>(shifted);
      total = total + weight;
      // 0·(−∞), a masked or impossible action, counts nothing.
      weighted = weighted + S::select(weight == zero, zero, weight * shifted);
      S::store(logits_ + k * S::lanes, shifted);
      S::store(weights_ + k * S::lanes, weight);
    }
    inverse_total_ = T(1) / total;
    log_total_ = log<S>(total);
    entropy_ = log_total_ - weighted * inverse_total_;
    T chosen[S::lanes] = {};
    for (size_t i = 0; i < rows; ++i) {
      const int64_t action = a_.discrete_actions[row + i];
      const bool in_range = action >= 0 && action < n_;
      if (!in_range) report(PpoLossFault::action_out_of_range, row + i);
      action_[i] = in_range ? action : 0;
      if (a_.action_mask != nullptr && !a_.action_mask[(row + i) * n_ + action_[i]]) {
        report(PpoLossFault::action_masked, row + i);
      }
      chosen[i] = logits_[action_[i] * S::lanes + i];
    }
    log_prob = S::load(chosen) - log_total_;
    entropy = entropy_;
  }

  // ∂log π(a)/∂z_k = [k = a] − p_k,   ∂H/∂z_k = −p_k·(log p_k + H).
  void backward(int64_t row, size_t rows, Vec by_log_prob, Vec by_entropy) {
    const Vec zero = S::broadcast(T(0));
    for (int64_t k = 0; k < n_; ++k) {
      const Vec p = S::load(weights_ + k * S::lanes) * inverse_total_;
      const Vec log_p = S::load(logits_ + k * S::lanes) - log_total_;
      const Vec pull = S::select(p == zero, zero, p * (log_p + entropy_));
      S::store(weights_ + k * S::lanes, -by_log_prob * p - by_entropy * pull);
    }
    for (size_t i = 0; i < rows; ++i) weights_[action_[i] * S::lanes + i] += by_log_prob[i];
    for (int64_t k = 0; k < n_; ++k) {
      scatter_column<S>(S::load(weights_ + k * S::lanes), rows, a_.grad_params + row * n_ + k, n_);
    }
  }

  PpoLossFault fault() const { return fault_; }

 private:
  void apply_mask(int64_t row, size_t rows) {
    for (size_t i = 0; i < rows; ++i) {
      const uint8_t* allowed = a_.action_mask + (row + i) * n_;
      bool any = false;
      for (int64_t k = 0; k < n_; ++k) {
        if (allowed[k]) {
          any = true;
        } else {
          logits_[k * S::lanes + i] = -T(__builtin_inf());
        }
      }
      if (!any) report(PpoLossFault::row_masked, row + i);
    }
  }

  void report(PpoLossFault::Kind kind, int64_t row) {
    if (fault_.kind == PpoLossFault::none) {
      fault_.kind = kind;
      fault_.row = row;
    }
  }

  const PpoLossArgs<T>& a_;
  const int64_t n_;
  T* const logits_;   // [K][lanes], less the row's largest
  T* const weights_;  // [K][lanes], exp of those; then the gradient
  int64_t action_[S::lanes] = {};
  Vec inverse_total_{}, log_total_{}, entropy_{};
  PpoLossFault fault_;
};

template <typename S>
class NormalPolicy {
 public:
  using T = typename S::Scalar;
  using Vec = typename S::Vec;

  explicit NormalPolicy(const PpoLossArgs<T>& args)
      : a_(args), n_(args.actions_width), z_(args.scratch), inverse_(args.scratch + n_ * S::lanes) {}

  void forward(int64_t row, size_t rows, Vec& log_prob, Vec& entropy) {
    constexpr T half_log_2pi = T(0.91893853320467274);
    const T* params = a_.params + row * 2 * n_;
    log_prob = S::broadcast(T(0));
    entropy = S::broadcast(T(0));
    for (int64_t j = 0; j < n_; ++j) {
      T mean[S::lanes], log_std[S::lanes], action[S::lanes];
      gather_columns<S>(params + j, 2 * n_, 1, rows, mean);
      gather_columns<S>(params + n_ + j, 2 * n_, 1, rows, log_std);
      gather_columns<S>(a_.continuous_actions + row * n_ + j, n_, 1, rows, action);
      const Vec inverse = exp<S>(-S::load(log_std));
      const Vec z = (S::load(action) - S::load(mean)) * inverse;
      log_prob = log_prob - (T(0.5) * z * z + S::load(log_std) + half_log_2pi);
      entropy = entropy + (S::load(log_std) + (half_log_2pi + T(0.5)));
      S::store(z_ + j * S::lanes, z);
      S::store(inverse_ + j * S::lanes, inverse);
    }
  }

  // ∂log π/∂μ = z/σ,   ∂log π/∂log σ = z² − 1,   ∂H/∂log σ = 1,   with z = (a − μ)/σ.
  void backward(int64_t row, size_t rows, Vec by_log_prob, Vec by_entropy) {
    T* grad = a_.grad_params + row * 2 * n_;
    for (int64_t j = 0; j < n_; ++j) {
      const Vec z = S::load(z_ + j * S::lanes);
      scatter_column<S>(by_log_prob * z * S::load(inverse_ + j * S::lanes), rows, grad + j, 2 * n_);
      scatter_column<S>(by_log_prob * (z * z - T(1)) + by_entropy, rows, grad + n_ + j, 2 * n_);
    }
  }

  PpoLossFault fault() const { return {}; }

 private:
  const PpoLossArgs<T>& a_;
  const int64_t n_;
  T* const z_;        // [A][lanes]
  T* const inverse_;  // [A][lanes], 1/σ
};

}  // namespace
}  // namespace optix_fast
