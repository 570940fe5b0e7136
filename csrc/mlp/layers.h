// What the layers of mlp.h other than dense compute, forward and backward: for mlp_cpu.cpp only.
//
// Columns from `out` to `stride` of a norm's output are f(0), whatever its input has there; those of the other
// layers come from their inputs'. Nobody reads them as numbers.
#pragma once

#include "activations.h"
#include "lanes.h"
#include "mlp.h"

namespace optix_fast {
namespace {

// The columns j … j + lanes, of which those from n on are zero.
template <typename S, typename T>
typename S::Vec load_inside(const T* row, int64_t j, int64_t n) {
  return n - j < int64_t(S::lanes) ? load_part<S>(row + j, n - j) : S::load(row + j);
}

// v, its lanes from column n on zero.
template <typename S>
typename S::Vec keep_inside(typename S::Vec v, int64_t j, int64_t n) {
  if (n - j >= int64_t(S::lanes)) return v;
  typename S::Scalar lane[S::lanes];
  S::store(lane, v);
  return load_part<S>(lane, n - j);
}

// --- norms: as many rows at a time as a vector has lanes, so that one vector holds all their sums ----------

// Up to `lanes` rows of x → normalized [rows, padded(out)] and row_scale, which has room for a whole vector.
template <typename S, typename T>
void normalize_rows(const Layer<T>& l, const T* x, int64_t x_stride, int64_t rows, T* normalized,
                    T* row_scale) {
  constexpr int64_t lanes = S::lanes;
  const int64_t width = padded<T>(l.out);
  const T share = T(1) / static_cast<T>(l.out);
  typename S::Vec sums[lanes] = {};
  typename S::Vec mean{};
  if (l.kind == LayerKind::layer_norm) {
    for (int64_t i = 0; i < rows; ++i) {
      const T* row = x + i * x_stride;
      for (int64_t j = 0; j < l.out; j += lanes) sums[i] = sums[i] + load_inside<S>(row, j, l.out);
    }
    mean = sums_of<S>(sums) * share;
  }
  for (int64_t i = 0; i < lanes; ++i) sums[i] = typename S::Vec{};  // sums_of has used them up
  for (int64_t i = 0; i < rows; ++i) {
    typename S::Vec sum{};
    const T* row = x + i * x_stride;
    T* to = normalized + i * width;
    const T shift = mean[i];
    for (int64_t j = 0; j < width; j += lanes) {
      if (j >= l.out) {
        S::store(to + j, typename S::Vec{});
        continue;
      }
      const auto centred = keep_inside<S>(load_inside<S>(row, j, l.out) - shift, j, l.out);
      sum = sum + centred * centred;
      S::store(to + j, centred);
    }
    sums[i] = sum;
  }
  const auto variance = sums_of<S>(sums) * share;
  const auto scale = S::broadcast(1) / square_root<S>(variance + l.number);
  S::store(row_scale, scale);
  for (int64_t i = 0; i < rows; ++i) {
    T* to = normalized + i * width;
    for (int64_t j = 0; j < l.out; j += lanes) S::store(to + j, S::load(to + j) * scale[i]);
  }
}

// gradient by Z [B, stride] → by the input, written to or added to `to`. With weights, dw too.
template <typename S, typename T>
void norm_backward(const Layer<T>& l, const T* gradient, int64_t rows, bool writes, T* to,
                   int64_t to_stride) {
  constexpr int64_t lanes = S::lanes;
  const T share = T(1) / static_cast<T>(l.out);
  const bool centres = l.kind == LayerKind::layer_norm;
  for (int64_t first = 0; first < rows; first += lanes) {
    const int64_t here = rows - first < lanes ? rows - first : lanes;
    typename S::Vec by_mean[lanes] = {}, by_scale[lanes] = {};
    for (int64_t i = 0; i < here; ++i) {
      const T* g = gradient + (first + i) * l.stride;
      const T* z = l.normalized + (first + i) * l.stride;
      for (int64_t j = 0; j < l.out; j += lanes) {
        const auto weighted = load_inside<S>(g, j, l.out) * S::load(l.weight_padded + j);
        by_mean[i] = by_mean[i] + weighted;
        by_scale[i] = by_scale[i] + weighted * S::load(z + j);
      }
    }
    const auto mean = sums_of<S>(by_mean) * (centres ? share : T(0));
    const auto slope = sums_of<S>(by_scale) * share;
    for (int64_t i = 0; i < here; ++i) {
      const T* g = gradient + (first + i) * l.stride;
      const T* z = l.normalized + (first + i) * l.stride;
      T* out = to + (first + i) * to_stride;
      const T scale = l.row_scale[first + i], m = mean[i], s = slope[i];
      for (int64_t j = 0; j < l.out; j += lanes) {
        const auto weighted = load_inside<S>(g, j, l.out) * S::load(l.weight_padded + j);
        auto by_input = (weighted - m - S::load(z + j) * s) * scale;
        by_input = keep_inside<S>(by_input, j, l.out);
        S::store(out + j, writes ? by_input : S::load(out + j) + by_input);
      }
    }
  }
}

// dw = Σ_rows dZ∘normalized, [out].
template <typename S, typename T>
void norm_weight_gradient(const Layer<T>& l, const T* gradient, int64_t rows) {
  for (int64_t j = 0; j < l.out; j += S::lanes) {
    typename S::Vec sum{};
    for (int64_t i = 0; i < rows; ++i) {
      sum = sum + S::load(gradient + i * l.stride + j) * S::load(l.normalized + i * l.stride + j);
    }
    S::store_first(l.grad_weight + j, sum, l.out - j);
  }
}

// z = normalized∘w + b, on rows of padded(out).
template <typename S, typename T>
void scale_and_shift(const Layer<T>& l, const T* normalized, int64_t rows, T* z) {
  const int64_t width = padded<T>(l.out);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < width; j += S::lanes) {
      const auto scaled = S::load(normalized + i * width + j) * S::load(l.weight_padded + j);
      S::store(z + i * width + j, scaled + S::load(l.bias_row + j));
    }
  }
}

// A norm's w and b, in place on one row, from torch's own.
template <typename S, typename T>
void affine_row(const Layer<T>& l, T* z) {
  for (int64_t j = 0; j < l.out; j += S::lanes) {
    auto v = S::load(z + j);
    if (l.weight != nullptr) v = v * load_inside<S>(l.weight, j, l.out);
    if (l.bias != nullptr) v = v + load_inside<S>(l.bias, j, l.out);
    S::store(z + j, v);
  }
}

// --- one row of Z, before the activation ------------------------------------------------------------------

// Which of n entries column `first` of a row names; −1 where there is no such one.
template <typename T>
int64_t entry_of(const Layer<T>& l, const T* x, int64_t n) {
  const T k = x[l.first] - l.number;
  return k >= T(0) && k < static_cast<T>(n) && k == static_cast<T>(static_cast<int64_t>(k))
             ? static_cast<int64_t>(k)
             : -1;
}

// Z of one row of a layer that is no dense one and no norm, in z [padded(out)]. x and other are rows of its
// operands, with zeros or numbers up to whole cache lines.
template <typename S, typename T>
void combine_row(const Layer<T>& l, const T* x, const T* other, T* z) {
  constexpr int64_t lanes = S::lanes;
  const int64_t width = padded<T>(l.out);
  switch (l.kind) {
    case LayerKind::sum:
      for (int64_t j = 0; j < width; j += lanes) {
        S::store(z + j, S::load(x + j) + l.number * S::load(other + j));
      }
      return;
    case LayerKind::product:
      for (int64_t j = 0; j < width; j += lanes) S::store(z + j, S::load(x + j) * S::load(other + j));
      return;
    case LayerKind::dropout:  // evaluated
      __builtin_memcpy(z, x, width * sizeof(T));
      return;
    case LayerKind::concat:
      for (int64_t j = l.out; j < width; ++j) z[j] = T(0);
      __builtin_memcpy(z, x, l.in * sizeof(T));
      __builtin_memcpy(z + l.in, other, l.other_in * sizeof(T));
      return;
    case LayerKind::columns:
      for (int64_t j = 0; j < width; ++j) z[j] = j < l.out ? l.number * x[l.first + j] : T(0);
      return;
    case LayerKind::one_hot: {
      const int64_t k = entry_of(l, x, l.out);
      for (int64_t j = 0; j < width; ++j) z[j] = j == k ? T(1) : T(0);
      if (k < 0) z[0] = __builtin_nanf("");
      return;
    }
    case LayerKind::embedding: {
      const int64_t k = entry_of(l, x, l.entries);
      for (int64_t j = 0; j < width; ++j) z[j] = k >= 0 && j < l.out ? l.weight[k * l.out + j] : T(0);
      if (k < 0) z[0] = __builtin_nanf("");
      return;
    }
    default: {  // dueling
      T sum = 0;
      for (int64_t j = 0; j < l.out; ++j) sum += x[j];
      const T shift = other[0] - sum / static_cast<T>(l.out);
      for (int64_t j = 0; j < width; ++j) z[j] = j < l.out ? x[j] + shift : T(0);
    }
  }
}

// --- gradients by the operands -----------------------------------------------------------------------------

// to = value, or to += value.
template <typename S, typename T>
void arrive(bool writes, T* to, typename S::Vec value) {
  S::store(to, writes ? value : S::load(to) + value);
}

// Of a sum, product, concat or dueling: by the source (to_other false) or by the other.
template <typename S, typename T>
void operand_gradient(const Layer<T>& l, const T* gradient, int64_t rows, bool to_other, const T* factor,
                      int64_t factor_stride, T* to, int64_t to_stride) {
  constexpr int64_t lanes = S::lanes;
  const bool writes = to_other ? l.writes_other : l.writes;
  for (int64_t i = 0; i < rows; ++i) {
    const T* g = gradient + i * l.stride;
    T* row = to + i * to_stride;
    if (l.kind == LayerKind::sum) {
      const T scale = to_other ? l.number : T(1);
      for (int64_t j = 0; j < l.stride; j += lanes) arrive<S>(writes, row + j, scale * S::load(g + j));
    } else if (l.kind == LayerKind::product) {
      const T* f = factor + i * factor_stride;
      for (int64_t j = 0; j < l.stride; j += lanes)
        arrive<S>(writes, row + j, S::load(g + j) * S::load(f + j));
    } else if (l.kind == LayerKind::concat) {
      const T* from = to_other ? g + l.in : g;
      const int64_t n = to_other ? l.other_in : l.in;
      for (int64_t j = 0; j < n; ++j) row[j] = writes ? from[j] : row[j] + from[j];
      for (int64_t j = n; writes && j < padded<T>(n); ++j) row[j] = T(0);
    } else {  // dueling
      T sum = 0;
      for (int64_t j = 0; j < l.out; ++j) sum += g[j];
      if (to_other) {
        row[0] = writes ? sum : row[0] + sum;
        continue;
      }
      const T mean = sum / static_cast<T>(l.out);
      for (int64_t j = 0; j < l.out; ++j) row[j] = writes ? g[j] - mean : row[j] + (g[j] - mean);
    }
  }
}

// Of columns: by its source, `width` wide with padding.
template <typename T>
void columns_gradient(const Layer<T>& l, const T* gradient, int64_t rows, T* to, int64_t to_stride,
                      int64_t width) {
  for (int64_t i = 0; i < rows; ++i) {
    T* row = to + i * to_stride;
    for (int64_t j = 0; l.writes && j < width; ++j) row[j] = T(0);
    for (int64_t j = 0; j < l.out; ++j) row[l.first + j] += l.number * gradient[i * l.stride + j];
  }
}

// dW of an embedding [entries, out]: the gradients of the rows that name an entry, in order.
template <typename T>
void embedding_gradient(const Layer<T>& l, const T* x, int64_t x_stride, const T* gradient, int64_t rows) {
  for (int64_t j = 0; j < l.entries * l.out; ++j) l.grad_weight[j] = T(0);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t k = entry_of(l, x + i * x_stride, l.entries);
    for (int64_t j = 0; k >= 0 && j < l.out; ++j) l.grad_weight[k * l.out + j] += gradient[i * l.stride + j];
  }
}

}  // namespace
}  // namespace optix_fast
