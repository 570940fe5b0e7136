// The action distributions of ppo_loss, each over one block of samples, one sample per lane.
//
// A policy reads the parameters of a block and turns them into log-probabilities and the entropies of its
// components (forward), keeps what the gradient needs in scratch, and turns the loss's derivatives by those
// into the gradient of the parameters (backward, for the block that forward saw last).
#pragma once

#include "columns.h"
#include "ppo_loss.h"
#include "simd_math.h"

namespace optix_fast {
namespace {

// One component of the action: its entropy in this block, ∂loss/∂entropy of a sample, and the batch's sum.
template <typename S>
struct Component {
  typename S::Vec entropy, by_entropy;
  BatchSum<S> sum;
};

// One categorical variable, K logits in columns.
template <typename S>
struct CategoricalPart {
  using T = typename S::Scalar;
  using Vec = typename S::Vec;

  T* logits;   // [K][lanes], less the row's largest after forward; the gradient after backward
  T* weights;  // [K][lanes], exp of those
  int64_t n;   // K
  int64_t action[S::lanes];
  Vec inverse_total, log_total;

  // Returns log π(action).
  Vec forward(Vec& entropy) {
    Vec largest = S::load(logits);
    for (int64_t k = 1; k < n; ++k) largest = S::max(S::load(logits + k * S::lanes), largest);
    const Vec zero = S::broadcast(T(0));
    Vec total = zero, weighted = zero;
    for (int64_t k = 0; k < n; ++k) {
      const Vec shifted = S::load(logits + k * S::lanes) - largest;
      const Vec weight = exp<S>(shifted);
      total = total + weight;
      // 0·(−∞), a masked or impossible action, counts nothing.
      weighted = weighted + S::select(weight == zero, zero, weight * shifted);
      S::store(logits + k * S::lanes, shifted);
      S::store(weights + k * S::lanes, weight);
    }
    inverse_total = T(1) / total;
    log_total = log<S>(total);
    entropy = log_total - weighted * inverse_total;
    Vec chosen = zero;
    for (size_t i = 0; i < S::lanes; ++i) chosen[i] = logits[action[i] * int64_t(S::lanes) + int64_t(i)];
    return chosen - log_total;
  }

  // ∂log π(a)/∂z_k = [k = a] − p_k,   ∂H/∂z_k = −p_k·(log p_k + H).
  void backward(size_t rows, Vec by_log_prob, const Component<S>& component) {
    const Vec zero = S::broadcast(T(0));
    for (int64_t k = 0; k < n; ++k) {
      const Vec p = S::load(weights + k * S::lanes) * inverse_total;
      const Vec log_p = S::load(logits + k * S::lanes) - log_total;
      const Vec pull = S::select(p == zero, zero, p * (log_p + component.entropy));
      S::store(logits + k * S::lanes, -by_log_prob * p - component.by_entropy * pull);
    }
    for (size_t i = 0; i < rows; ++i) logits[action[i] * int64_t(S::lanes) + int64_t(i)] += by_log_prob[i];
  }

  // Impossible actions get the logit −∞; false for a lane without any action left.
  bool apply_mask(const uint8_t* allowed, size_t lane) {
    bool any = false;
    for (int64_t k = 0; k < n; ++k) {
      if (allowed[k]) {
        any = true;
      } else {
        logits[k * int64_t(S::lanes) + int64_t(lane)] = -T(__builtin_inf());
      }
    }
    return any;
  }
};

// A Gaussian dimensions, mean and log_std in columns; becomes z and 1/σ, then the gradient.
template <typename S>
struct NormalPart {
  using T = typename S::Scalar;
  using Vec = typename S::Vec;

  T* mean;           // [A][lanes]
  T* log_std;        // [A][lanes]
  const T* actions;  // [A][lanes]
  int64_t n;         // A

  Vec forward(Vec& entropy) {
    constexpr T half_log_2pi = T(0.91893853320467274);
    Vec log_prob = S::broadcast(T(0));
    entropy = S::broadcast(T(0));
    for (int64_t j = 0; j < n; ++j) {
      const Vec log_sigma = S::load(log_std + j * S::lanes);
      const Vec inverse = exp<S>(-log_sigma);
      const Vec z = (S::load(actions + j * S::lanes) - S::load(mean + j * S::lanes)) * inverse;
      log_prob = log_prob - (T(0.5) * z * z + log_sigma + half_log_2pi);
      entropy = entropy + (log_sigma + (half_log_2pi + T(0.5)));
      S::store(mean + j * S::lanes, z);
      S::store(log_std + j * S::lanes, inverse);
    }
    return log_prob;
  }

  // ∂log π/∂μ = z/σ,   ∂log π/∂log σ = z² − 1,   ∂H/∂log σ = 1,   with z = (a − μ)/σ.
  void backward(Vec by_log_prob, const Component<S>& component) {
    for (int64_t j = 0; j < n; ++j) {
      const Vec z = S::load(mean + j * S::lanes);
      S::store(mean + j * S::lanes, by_log_prob * z * S::load(log_std + j * S::lanes));
      S::store(log_std + j * S::lanes, by_log_prob * (z * z - T(1)) + component.by_entropy);
    }
  }
};

// Memory for a block, taken off the scratch of the call.
template <typename T>
struct Scratch {
  unsigned char* next;

  explicit Scratch(T* scratch)
      : next(reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64)) {}

  template <typename Item>
  Item* take(int64_t n) {
    auto* taken = reinterpret_cast<Item*>(next);
    next += (static_cast<size_t>(n) * sizeof(Item) + 63) / 64 * 64;
    return taken;
  }
};

// Any number of categorical variables and one Gaussian. Discrete and Gaussian say at compile time what may be
// there, so that a lone categorical or Gaussian pays for nothing else.
template <typename S, bool Discrete, bool Gaussian>
class Policy {
 public:
  using T = typename S::Scalar;
  using Vec = typename S::Vec;

  explicit Policy(const PpoLossArgs<T>& args)
      : a_(args),
        n_discrete_(Discrete ? ppo_loss_discrete(args) : 0),
        width_(ppo_loss_params_width(args)),
        mask_width_(width_ - (Gaussian ? 2 * args.actions_width : 0)),
        n_actions_(Gaussian ? (args.kind == PolicyKind::hybrid ? n_discrete_ : 0) + args.actions_width : 0) {
    static_assert(sizeof(Component<S>) + sizeof(CategoricalPart<S>) <= kPpoComponentBytes);
    constexpr int64_t lanes = S::lanes;
    Scratch<T> scratch(args.scratch);
    components_ = scratch.template take<Component<S>>(components());
    for (int k = 0; k < components(); ++k) components_[k] = Component<S>{};
    parts_ = scratch.template take<CategoricalPart<S>>(n_discrete_);
    columns_ = scratch.template take<T>(width_ * lanes);
    actions_ = scratch.template take<T>(n_actions_ * lanes);
    T* logits = columns_;
    for (int64_t k = 0; k < n_discrete_; ++k) {
      CategoricalPart<S>& part = parts_[k];
      part = CategoricalPart<S>{};
      part.n = args.kind == PolicyKind::categorical ? args.actions_width : args.nvec[k];
      part.logits = logits;
      part.weights = scratch.template take<T>(part.n * lanes);
      logits += part.n * lanes;
    }
    if (Gaussian) {
      const int64_t n = args.actions_width;
      normal_ = {logits, logits + n * lanes, actions_ + (n_actions_ - n) * lanes, n};
    }
  }

  int64_t components() const { return n_discrete_ + (Gaussian ? 1 : 0); }
  Component<S>& component(int64_t k) { return components_[k]; }

  Vec forward(int64_t row, size_t rows) {
    gather_columns<S>(a_.params + row * width_, width_, rows, a_.params + a_.batch * width_, columns_);
    Vec log_prob = S::broadcast(T(0));
    if (Gaussian) {
      gather_columns<S>(a_.continuous_actions + row * n_actions_, n_actions_, rows,
                        a_.continuous_actions + a_.batch * n_actions_, actions_);
    }
    int64_t offset = 0;
    for (int64_t k = 0; k < n_discrete_; ++k) {
      read_actions(row, rows, k, offset);
      log_prob = log_prob + parts_[k].forward(components_[k].entropy);
      offset += parts_[k].n;
    }
    if (Gaussian) log_prob = log_prob + normal_.forward(components_[n_discrete_].entropy);
    return log_prob;
  }

  void backward(int64_t row, size_t rows, Vec by_log_prob) {
    for (int64_t k = 0; k < n_discrete_; ++k) parts_[k].backward(rows, by_log_prob, components_[k]);
    if (Gaussian) normal_.backward(by_log_prob, components_[n_discrete_]);
    scatter_columns<S>(columns_, width_, rows, a_.grad_params + row * width_,
                       a_.grad_params + a_.batch * width_);
  }

  PpoLossFault fault() const { return fault_; }

 private:
  // The block's actions of component k, whose logits start at `offset`, checked; and its mask applied.
  void read_actions(int64_t row, size_t rows, int64_t k, int64_t offset) {
    CategoricalPart<S>& part = parts_[k];
    for (size_t i = 0; i < rows; ++i) {
      int64_t action = -1;
      double given;
      if (Gaussian) {
        given = actions_[k * int64_t(S::lanes) + int64_t(i)];
        if (given >= 0 && given < double(part.n)) action = static_cast<int64_t>(given);
        if (double(action) != given) action = -1;
      } else {
        action = a_.discrete_actions[(row + int64_t(i)) * n_discrete_ + k];
        given = static_cast<double>(action);
      }
      const bool in_range = action >= 0 && action < part.n;
      part.action[i] = in_range ? action : 0;
      const bool masked = a_.action_mask != nullptr;
      const uint8_t* allowed = masked ? a_.action_mask + (row + int64_t(i)) * mask_width_ + offset : nullptr;
      if (masked && !part.apply_mask(allowed, i)) report(PpoLossFault::row_masked, row + i, k, given);
      if (!in_range) report(PpoLossFault::action_out_of_range, row + i, k, given);
      if (masked && !allowed[part.action[i]]) report(PpoLossFault::action_masked, row + i, k, given);
    }
    for (size_t i = rows; i < S::lanes; ++i) part.action[i] = 0;
  }

  void report(PpoLossFault::Kind kind, int64_t row, int64_t component, double action) {
    if (fault_.kind == PpoLossFault::none) fault_ = {kind, row, component, action};
  }

  const PpoLossArgs<T>& a_;
  const int64_t n_discrete_;
  const int64_t width_;       // of params
  const int64_t mask_width_;  // logits of all categorical variables
  const int64_t n_actions_;   // columns of continuous_actions
  Component<S>* components_;
  CategoricalPart<S>* parts_;
  T* columns_;
  T* actions_;
  NormalPart<S> normal_{};
  PpoLossFault fault_;
};

}  // namespace
}  // namespace optix_fast
