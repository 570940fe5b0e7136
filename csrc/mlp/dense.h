// What the dense layers of mlp.h compute, and the activations behind any layer: for mlp_cpu.cpp only.
#pragma once

#include "activations.h"
#include "gemm.h"
#include "layers.h"

namespace optix_fast {
namespace {

// to[column, row] = from[row, column]; `to` has rows of to_stride elements, zero behind the last of `rows`.
template <typename S, typename T>
void transpose(const T* from, int64_t rows, int64_t columns, T* to, int64_t to_stride) {
  constexpr int64_t lanes = S::lanes;
  for (int64_t row = 0; row < to_stride; row += lanes) {
    for (int64_t column = 0; column < columns; column += lanes) {
      const int64_t here = columns - column < lanes ? columns - column : lanes;
      typename S::Vec square[lanes];
      for (int64_t i = 0; i < lanes; ++i) {
        const T* source = from + (row + i) * columns + column;
        square[i] = row + i >= rows ? typename S::Vec{}
                    : here == lanes ? S::load(source)
                                    : load_part<S>(source, here);
      }
      transpose_square<S>(square);
      for (int64_t i = 0; i < here; ++i) S::store(to + (column + i) * to_stride + row, square[i]);
    }
  }
}

template <typename T>
void copy_rows(const T* from, int64_t from_stride, int64_t rows, int64_t columns, T* to, int64_t to_stride) {
  for (int64_t i = 0; i < rows; ++i) {
    __builtin_memcpy(to + i * to_stride, from + i * from_stride, columns * sizeof(T));
  }
}

// A block of rows of equal stride.
struct Block {
  int64_t rows, columns, stride;
};

// y = f(z) on a block whose columns are a whole number of vectors; z is kept where f' needs it.
template <typename S, typename T, typename F>
void activate(F f, T* y, T* before, Block block) {
  for (int64_t i = 0; i < block.rows; ++i, y += block.stride) {
    for (int64_t j = 0; j < block.columns; j += S::lanes) {
      const auto z = S::load(y + j);
      if constexpr (F::keeps_input) S::store(before + i * block.stride + j, z);
      S::store(y + j, f.value(z));
    }
  }
}

// gradient ∘= f'(z) on such a block; `from` is y or z.
template <typename S, typename T, typename F>
void differentiate(F f, T* gradient, const T* from, Block block) {
  for (int64_t i = 0; i < block.rows; ++i, gradient += block.stride, from += block.stride) {
    for (int64_t j = 0; j < block.columns; j += S::lanes) {
      S::store(gradient + j, S::load(gradient + j) * f.slope(S::load(from + j)));
    }
  }
}

// One value per row of x, and per row of `w`: out[i·out_stride + o] = f(bias[o] + x_i·w_o), as many rows at a
// time as a vector has lanes. Rows of x beyond `rows` are read, up to a whole vector.
template <typename S, typename T>
void forward_narrow(const Layer<T>& l, const T* input, int64_t input_stride, int64_t rows) {
  constexpr int64_t lanes = S::lanes;
  const int64_t width = padded<T>(l.in);
  for (int64_t row = 0; row < rows; row += lanes) {
    const int64_t here = rows - row < lanes ? rows - row : lanes;
    for (int64_t o = 0; o < l.out; ++o) {
      typename S::Vec sum[lanes] = {};
      const T* weight = l.weight_rows + o * width;
      for (int64_t k = 0; k < width; k += lanes) {
        const auto w = S::load(weight + k);
        const T* x = input + row * input_stride + k;
        for (int64_t i = 0; i < lanes; ++i) sum[i] = sum[i] + S::load(x + i * input_stride) * w;
      }
      T lane[lanes];
      S::store(lane, sums_of<S>(sum) + l.bias_row[o]);
      for (int64_t i = 0; i < here; ++i) l.output[(row + i) * l.out + o] = lane[i];
    }
  }
  with_activation<S>(l.activation, l.constants,
                     [&](auto f) { activate<S>(f, l.output, l.before, {1, padded<T>(rows * l.out), 0}); });
}

template <typename S, typename T>
void forward_dense(const Layer<T>& l, const T* input, int64_t input_stride, int64_t rows) {
  if (l.narrow()) return forward_narrow<S>(l, input, input_stride, rows);
  with_activation<S>(l.activation, l.constants, [&](auto f) {
    const auto finish = [&](int64_t row, int64_t n, int64_t column, int64_t columns) {
      const int64_t at = row * l.stride + column;
      activate<S>(f, l.output + at, l.before + at, {n, columns, l.stride});
    };
    multiply<S, T>(rows, l.stride, l.in, {input, input_stride, 1}, {l.weight_transposed, l.stride},
                   {l.bias_row, 0}, {l.output, l.stride}, finish);
  });
}

// After a block that needs nothing more.
constexpr auto kNothing = [](int64_t, int64_t, int64_t, int64_t) {};

// Σ over rows of each of n columns.
template <typename S, typename T>
void column_sums(const T* from, int64_t stride, int64_t rows, int64_t n, T* to) {
  constexpr int64_t lanes = S::lanes;
  int64_t column = 0;
  for (; column + lanes <= n; column += lanes) {
    typename S::Vec even{}, odd{};
    int64_t i = 0;
    for (; i + 2 <= rows; i += 2) {
      even = even + S::load(from + i * stride + column);
      odd = odd + S::load(from + (i + 1) * stride + column);
    }
    if (i < rows) even = even + S::load(from + i * stride + column);
    S::store(to + column, even + odd);
  }
  for (; column < n; ++column) {
    T sum = 0;
    for (int64_t i = 0; i < rows; ++i) sum += from[i * stride + column];
    to[column] = sum;
  }
}

// dW [out, in] = dZᵀ·X. Rows of `in` elements that fill no vector are computed with padding, or, where that
// wastes more (4 observations, 64 units), as the transposed product Xᵀ·dZ.
template <typename S, typename T>
void weight_gradient(const Layer<T>& l, const T* delta, const T* input, int64_t input_stride, int64_t rows,
                     T* wide) {
  const int64_t padded_in = padded<T>(l.in);
  if (l.in == padded_in) {
    multiply<S, T>(l.out, l.in, rows, {delta, 1, l.stride}, {input, input_stride}, {nullptr, 0},
                   {l.grad_weight, l.in}, kNothing);
  } else if (!l.narrow() && l.in * l.stride < l.out * padded_in) {
    multiply<S, T>(l.in, l.stride, rows, {input, 1, input_stride}, {delta, l.stride}, {nullptr, 0},
                   {wide, l.stride}, kNothing);
    for (int64_t o = 0; o < l.out; ++o) {
      for (int64_t i = 0; i < l.in; ++i) l.grad_weight[o * l.in + i] = wide[i * l.stride + o];
    }
  } else {
    multiply<S, T>(l.out, padded_in, rows, {delta, 1, l.stride}, {input, input_stride}, {nullptr, 0},
                   {wide, padded_in}, kNothing);
    copy_rows(wide, padded_in, l.out, l.in, l.grad_weight, l.in);
  }
}

// The gradient by a layer's output becomes that by its Z.
template <typename S, typename T>
void differentiate_output(const Layer<T>& l, int64_t rows, T* gradient) {
  with_activation<S>(l.activation, l.constants, [&](auto f) {
    const Block all{1, padded<T>(rows * l.stride), 0};
    differentiate<S>(f, gradient, f.keeps_input ? l.before : l.output, all);
  });
}

// From the gradient by the Z of dense layer l to that by the Z of the layer below it, whose only reader l is.
template <typename S, typename T>
void gradient_below(const Layer<T>& l, const Layer<T>& below, int64_t rows, const T* delta, T* target) {
  with_activation<S>(below.activation, below.constants, [&](auto f) {
    const T* from = f.keeps_input ? below.before : below.output;
    const auto finish = [&](int64_t row, int64_t n, int64_t column, int64_t columns) {
      const int64_t at = row * below.stride + column;
      differentiate<S>(f, target + at, from + at, {n, columns, below.stride});
    };
    multiply<S, T>(rows, below.stride, l.out, {delta, l.stride, 1}, {l.weight_rows, below.stride},
                   {nullptr, 0}, {target, below.stride}, finish);
  });
}

// One row of a dense layer from torch's own weights, as dot products, as many outputs at a time as a vector has
// lanes.
template <typename S, typename T>
void dense_row(const Layer<T>& l, const T* x, T* y) {
  constexpr int64_t lanes = S::lanes;
  for (int64_t o = 0; o < l.out; o += lanes) {
    typename S::Vec sum[lanes] = {};
    const int64_t units = l.out - o < lanes ? l.out - o : lanes;
    int64_t k = 0;
    for (; k + lanes <= l.in; k += lanes) {
      const auto part = S::load(x + k);
      const T* w = l.weight + o * l.in + k;
      if (units == lanes) {
        for (int64_t j = 0; j < lanes; ++j) sum[j] = sum[j] + S::load(w + j * l.in) * part;
      } else {
        for (int64_t j = 0; j < units; ++j) sum[j] = sum[j] + S::load(w + j * l.in) * part;
      }
    }
    if (k < l.in) {
      const auto part = load_part<S>(x + k, l.in - k);
      const T* w = l.weight + o * l.in + k;
      for (int64_t j = 0; j < units; ++j) sum[j] = sum[j] + load_part<S>(w + j * l.in, l.in - k) * part;
    }
    auto z = sums_of<S>(sum);
    if (l.bias != nullptr) z = z + load_inside<S>(l.bias + o, 0, units);
    with_activation<S>(l.activation, l.constants, [&](auto f) { S::store(y + o, f.value(z)); });
  }
}

}  // namespace
}  // namespace optix_fast
