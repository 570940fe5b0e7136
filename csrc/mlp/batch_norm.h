// Normalization over each column of a batch (Ioffe & Szegedy 2015), and batch renormalization (Ioffe 2017): for
// mlp_cpu.cpp only.
//
//   training     μ, v: mean and biased variance of the column, σ = √(v + ε);  x̂ = (x − μ)/σ
//                  batch_norm     n = x̂
//                  batch_renorm   n = x̂·r + d, after warmup_steps batches, before that r = 1, d = 0
//                                 r = σ/σ̄ in [1/r_max, r_max],  d = (μ − μ̄)/σ̄ in [−d_max, d_max]
//                                 with μ̄, σ̄ = √(v̄ + ε) the running ones; no gradient passes through r and d
//                then  μ̄ ← μ̄ + momentum·(μ − μ̄),  v̄ likewise towards v·B/(B − 1) (batch_norm, as torch) or
//                v (batch_renorm, as CrossQ's implementation)
//   evaluation   n = (x − μ̄)/σ̄
//
//   Z = n∘w + b;  dw = Σ dZ∘n,  db = Σ dZ
//   training     dx = w·r/σ·(dZ − db/B − (n − d)·k),  k = (dw − d·db)/(B·r²)
//   evaluation   dx = w/σ̄·dZ
//
// One vector of columns at a time goes down the rows; even and odd rows have sums of their own.
#pragma once

#include "layers.h"

namespace optix_fast {
namespace {

template <typename S, typename T>
struct Moments {
  typename S::Vec mean, var;
};

// Of the columns j … j + lanes: the mean first, then the squares around it.
template <typename S, typename T>
Moments<S, T> column_moments(const T* x, int64_t stride, int64_t rows, int64_t j, int64_t n) {
  const T share = T(1) / static_cast<T>(rows);
  const auto mean_of = [&](auto value) {
    typename S::Vec sum[2] = {};
    for (int64_t i = 0; i < rows; ++i) sum[i % 2] = sum[i % 2] + value(load_inside<S>(x + i * stride, j, n));
    return (sum[0] + sum[1]) * share;
  };
  const auto mean = mean_of([](auto v) { return v; });
  return {mean, mean_of([mean](auto v) { return (v - mean) * (v - mean); })};
}

// From what a pass normalizes by to centre, scale, shift and ratio; the running statistics move.
template <typename S, typename T>
void batch_statistics(Layer<T>& l, const T* x, int64_t x_stride, int64_t rows) {
  RunningStatistics<T>& r = l.running;
  const bool is_renorm = l.kind == LayerKind::batch_renorm;
  const bool is_corrected = l.training && is_renorm && *r.batches >= r.warmup_steps;
  const T spread = is_renorm ? T(1) : static_cast<T>(rows) / static_cast<T>(rows - 1);
  for (int64_t j = 0; j < l.out; j += S::lanes) {
    const auto running_mean = load_inside<S>(r.mean, j, l.out);
    const auto running_var = load_inside<S>(r.var, j, l.out);
    Moments<S, T> own{running_mean, running_var};
    auto ratio = S::broadcast(1), shift = S::broadcast(0);
    if (l.training) {
      own = column_moments<S>(x, x_stride, rows, j, l.out);
      if (is_corrected) {
        const auto by = S::broadcast(1) / square_root<S>(running_var + l.number);
        ratio = square_root<S>(own.var + l.number) * by;
        ratio = S::select(ratio > r.r_max, S::broadcast(r.r_max), ratio);
        ratio = S::select(ratio < T(1) / r.r_max, S::broadcast(T(1) / r.r_max), ratio);
        shift = limit<S>((own.mean - running_mean) * by, r.d_max);
      }
      const auto mean = running_mean + r.momentum * (own.mean - running_mean);
      const auto var = running_var + r.momentum * (own.var * spread - running_var);
      S::store_first(r.mean + j, mean, l.out - j);
      S::store_first(r.var + j, var, l.out - j);
    }
    S::store(r.centre + j, own.mean);
    S::store(r.scale + j, keep_inside<S>(ratio / square_root<S>(own.var + l.number), j, l.out));
    S::store(r.shift + j, keep_inside<S>(shift, j, l.out));
    S::store(r.ratio + j, ratio);
  }
  if (l.training) ++*r.batches;
}

// Rows of x → n, [rows, padded(out)].
template <typename S, typename T>
void standardize_rows(const Layer<T>& l, const T* x, int64_t x_stride, int64_t rows, T* to) {
  const RunningStatistics<T>& r = l.running;
  const int64_t width = padded<T>(l.out);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < width; j += S::lanes) {
      typename S::Vec n{};
      if (j < l.out) {
        const auto centred = load_inside<S>(x + i * x_stride, j, l.out) - S::load(r.centre + j);
        n = centred * S::load(r.scale + j) + S::load(r.shift + j);
      }
      S::store(to + i * width + j, n);
    }
  }
}

// One row by the running statistics, straight from torch's own.
template <typename S, typename T>
void standardize_row(const Layer<T>& l, const T* x, T* to) {
  for (int64_t j = 0; j < l.out; j += S::lanes) {
    const auto scale = S::broadcast(1) / square_root<S>(load_inside<S>(l.running.var, j, l.out) + l.number);
    const auto centred = load_inside<S>(x, j, l.out) - load_inside<S>(l.running.mean, j, l.out);
    S::store(to + j, keep_inside<S>(centred * scale, j, l.out));
  }
}

// gradient by Z [B, stride] → by the input, written to or added to `to`. Needs grad_weight and grad_bias.
template <typename S, typename T>
void batch_norm_backward(const Layer<T>& l, const T* gradient, int64_t rows, T* to, int64_t to_stride) {
  const RunningStatistics<T>& r = l.running;
  const T share = T(1) / static_cast<T>(rows);
  for (int64_t j = 0; j < l.out; j += S::lanes) {
    const auto factor = S::load(l.weight_padded + j) * S::load(r.scale + j), shift = S::load(r.shift + j);
    typename S::Vec mean{}, slope{};
    if (l.training) {
      const auto ratio = S::load(r.ratio + j);
      const auto by_bias = load_inside<S>(l.grad_bias, j, l.out);
      mean = by_bias * share;
      slope = (load_inside<S>(l.grad_weight, j, l.out) - shift * by_bias) * share / (ratio * ratio);
    }
    for (int64_t i = 0; i < rows; ++i) {
      const auto n = S::load(l.normalized + i * l.stride + j);
      const auto g = load_inside<S>(gradient + i * l.stride, j, l.out);
      const auto by_input = keep_inside<S>((g - mean - (n - shift) * slope) * factor, j, l.out);
      T* out = to + i * to_stride + j;
      S::store(out, l.writes ? by_input : S::load(out) + by_input);
    }
  }
}

}  // namespace
}  // namespace optix_fast
