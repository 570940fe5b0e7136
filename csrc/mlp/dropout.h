// Dropout (Srivastava et al. 2014): for mlp_cpu.cpp only.
//
//   training    Z = X∘M,  M[i, j] = 1/(1 − p) where u ≥ p, else 0;  dX = dZ∘M
//   evaluation  Z = X
//
// u is number i·out + j of the uniforms (random.h) at (key, pass·2³²): optix_fast/networks/dropout.py draws the
// same for torch.
#pragma once

#include "layers.h"
#include "random/random.h"

namespace optix_fast {
namespace {

template <typename T>
bool drops(const Layer<T>& l) {
  return l.kind == LayerKind::dropout && l.training;
}

// M of the next pass, [rows, stride].
template <typename T>
void draw_mask(Layer<T>& l, int64_t rows) {
  const float p = static_cast<float>(l.number);
  const T kept = T(1) / (T(1) - l.number);
  random_uniform_cpu<kPath>(l.key, static_cast<uint64_t>(l.passes++) << 32, rows * l.out, l.uniform);
  for (int64_t i = 0; i < rows; ++i) {
    const float* u = l.uniform + i * l.out;
    T* mask = l.normalized + i * l.stride;
    for (int64_t j = 0; j < l.out; ++j) mask[j] = u[j] >= p ? kept : T(0);
  }
}

// Rows first … first + rows of X, to z [rows, stride].
template <typename S, typename T>
void apply_mask(const Layer<T>& l, const T* x, int64_t x_stride, int64_t first, int64_t rows, T* z) {
  for (int64_t i = 0; i < rows; ++i) {
    const T* mask = l.normalized + (first + i) * l.stride;
    for (int64_t j = 0; j < l.stride; j += S::lanes) {
      S::store(z + i * l.stride + j, S::load(x + i * x_stride + j) * S::load(mask + j));
    }
  }
}

// gradient by Z [B, stride] → by X, written to or added to `to`.
template <typename S, typename T>
void dropout_backward(const Layer<T>& l, const T* gradient, int64_t rows, T* to, int64_t to_stride) {
  for (int64_t i = 0; i < rows; ++i) {
    const T* g = gradient + i * l.stride;
    for (int64_t j = 0; j < l.stride; j += S::lanes) {
      auto by_input = S::load(g + j);
      if (l.training) by_input = by_input * S::load(l.normalized + i * l.stride + j);
      arrive<S>(l.writes, to + i * to_stride + j, by_input);
    }
  }
}

}  // namespace
}  // namespace optix_fast
