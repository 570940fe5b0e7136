#include "mlp.h"

#include "activations.h"
#include "gemm.h"

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
void forward(const Layer<T>& l, const T* input, int64_t input_stride, int64_t rows) {
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

// The gradient by the last layer's output becomes that by its Z.
template <typename S, typename T>
void differentiate_output(const Stack<T>& stack, int64_t rows, T* gradient) {
  const Layer<T>& last = stack.layers[stack.n - 1];
  with_activation<S>(last.activation, last.constants, [&](auto f) {
    const Block all{1, padded<T>(rows * last.stride), 0};
    differentiate<S>(f, gradient, f.keeps_input ? last.before : last.output, all);
  });
}

// From the gradient by the Z of layer l to that by the Z of the layer below it, in `target`, which is
// returned.
template <typename S, typename T>
T* gradient_below(const Layer<T>& l, const Layer<T>& below, int64_t rows, const T* delta, T* target) {
  with_activation<S>(below.activation, below.constants, [&](auto f) {
    const T* from = f.keeps_input ? below.before : below.output;
    const auto finish = [&](int64_t row, int64_t n, int64_t column, int64_t columns) {
      const int64_t at = row * below.stride + column;
      differentiate<S>(f, target + at, from + at, {n, columns, below.stride});
    };
    multiply<S, T>(rows, below.stride, l.out, {delta, l.stride, 1}, {l.weight_rows, below.stride},
                   {nullptr, 0}, {target, below.stride}, finish);
  });
  return target;
}

// update(g, m, v, x) for every vector of elements `first` to `end` of a parameter and its Adam state; the
// target, if it follows, moves by tau towards the new x.
template <typename S, bool Follow, typename T, typename Update>
void sweep(const AdamParameter<T>& p, int64_t first, int64_t end, T tau, Update update) {
  constexpr int64_t lanes = S::lanes;
  int64_t i = first;
  for (; i + lanes <= end; i += lanes) {
    auto m = S::load(p.exp_avg + i), v = S::load(p.exp_avg_sq + i), x = S::load(p.value + i);
    update(S::load(p.grad + i), m, v, x);
    S::store(p.exp_avg + i, m);
    S::store(p.exp_avg_sq + i, v);
    S::store(p.value + i, x);
    if constexpr (Follow) {
      const auto target = S::load(p.target + i);
      S::store(p.target + i, target + tau * (x - target));
    }
  }
  if (i >= end) return;
  const size_t left = end - i;
  auto m = load_part<S>(p.exp_avg + i, left), v = load_part<S>(p.exp_avg_sq + i, left);
  auto x = load_part<S>(p.value + i, left);
  update(load_part<S>(p.grad + i, left), m, v, x);
  S::store_first(p.exp_avg + i, m, left);
  S::store_first(p.exp_avg_sq + i, v, left);
  S::store_first(p.value + i, x, left);
  if constexpr (Follow) {
    const auto target = load_part<S>(p.target + i, left);
    S::store_first(p.target + i, target + tau * (x - target), left);
  }
}

}  // namespace

template <SimdPath Path, typename T>
void stack_refresh_cpu(const Stack<T>& stack) {
  using S = Simd<T>;
  for (int64_t i = 0; i < stack.n; ++i) {
    const Layer<T>& l = stack.layers[i];
    const int64_t width = padded<T>(l.out);
    for (int64_t o = 0; o < width; ++o) l.bias_row[o] = l.bias != nullptr && o < l.out ? l.bias[o] : T(0);
    if (!l.narrow()) transpose<S>(l.weight, l.out, l.in, l.weight_transposed, width);
    if (l.weight_padded != nullptr) {
      const int64_t padded_in = padded<T>(l.in);
      for (int64_t o = 0; o < l.out; ++o) {
        T* row = l.weight_padded + o * padded_in;
        for (int64_t k = 0; k < padded_in; ++k) row[k] = k < l.in ? l.weight[o * l.in + k] : T(0);
      }
    }
  }
}

template <SimdPath Path, typename T>
void stack_forward_cpu(const Stack<T>& stack, const T* input, int64_t input_stride, int64_t rows) {
  for (int64_t i = 0; i < stack.n; ++i) {
    const Layer<T>& l = stack.layers[i];
    forward<Simd<T>>(l, input, input_stride, rows);
    input = l.output;
    input_stride = l.stride;
  }
}

template <SimdPath Path, typename T>
void stack_backward_cpu(const Stack<T>& stack, const Scratch<T>& scratch, const T* input,
                        int64_t input_stride, int64_t rows, T* grad_output, T* grad_input) {
  using S = Simd<T>;
  differentiate_output<S>(stack, rows, grad_output);
  T* delta = grad_output;
  for (int64_t i = stack.n - 1; i > 0; --i) {
    const Layer<T>& l = stack.layers[i];
    const Layer<T>& below = stack.layers[i - 1];
    column_sums<S>(delta, l.stride, rows, l.out, l.grad_bias);
    weight_gradient<S>(l, delta, below.output, below.stride, rows, scratch.wide_grad);
    delta = gradient_below<S>(l, below, rows, delta, scratch.delta[i % 2]);
  }
  const Layer<T>& first = stack.layers[0];
  column_sums<S>(delta, first.stride, rows, first.out, first.grad_bias);
  weight_gradient<S>(first, delta, input, input_stride, rows, scratch.wide_grad);
  if (grad_input == nullptr) return;
  multiply<S, T>(rows, padded<T>(first.in), first.out, {delta, first.stride, 1},
                 {first.weight_rows, padded<T>(first.in)}, {nullptr, 0}, {grad_input, input_stride},
                 kNothing);
}

template <SimdPath Path, typename T>
void stack_input_gradient_cpu(const Stack<T>& stack, const Scratch<T>& scratch, int64_t rows, T* grad_output,
                              int64_t from, T* grad_input) {
  using S = Simd<T>;
  differentiate_output<S>(stack, rows, grad_output);
  T* delta = grad_output;
  for (int64_t i = stack.n - 1; i > 0; --i) {
    delta = gradient_below<S>(stack.layers[i], stack.layers[i - 1], rows, delta, scratch.delta[i % 2]);
  }
  const Layer<T>& first = stack.layers[0];
  const int64_t columns = padded<T>(first.in) - from;
  multiply<S, T>(rows, columns, first.out, {delta, first.stride, 1},
                 {first.weight_rows + from, padded<T>(first.in)}, {nullptr, 0}, {grad_input, columns},
                 kNothing);
}

template <SimdPath Path, typename T>
void stack_take_rows_cpu(const Stack<T>& stack, const int64_t* rows, int64_t n) {
  for (int64_t i = 0; i < stack.n; ++i) {
    const Layer<T>& l = stack.layers[i];
    for (T* values : {l.output, l.before}) {
      if (values == nullptr) continue;
      for (int64_t k = 0; k < n; ++k) {
        __builtin_memmove(values + k * l.stride, values + rows[k] * l.stride, l.stride * sizeof(T));
      }
    }
  }
}

template <SimdPath Path, typename T>
void stack_forward_few_cpu(const Stack<T>& stack, const T* input, int64_t input_stride, int64_t rows, T* line,
                           int64_t line_stride, T* out) {
  using S = Simd<T>;
  constexpr int64_t lanes = S::lanes;
  for (int64_t row = 0; row < rows; ++row) {
    const T* x = input + row * input_stride;
    for (int64_t i = 0; i < stack.n; ++i) {
      const Layer<T>& l = stack.layers[i];
      T* y = line + (i % 2) * line_stride;
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
        if (l.bias != nullptr)
          z = z + (units == lanes ? S::load(l.bias + o) : load_part<S>(l.bias + o, units));
        with_activation<S>(l.activation, l.constants, [&](auto f) { S::store(y + o, f.value(z)); });
      }
      x = y;
    }
    copy_rows(x, 0, 1, stack.layers[stack.n - 1].out, out + row * stack.layers[stack.n - 1].out, 0);
  }
}

template <SimdPath Path, typename T>
double squared_norm_cpu(const T* values, int64_t n) {
  using S = Simd<T>;
  constexpr int64_t lanes = S::lanes;
  double total = 0.0;
  for (int64_t from = 0; from < n;) {
    // Sums of T stay short: 64 vectors, then double.
    const int64_t to = n - from < 64 * lanes ? n : from + 64 * lanes;
    typename S::Vec sum{};
    for (; from < to; from += lanes) {
      const auto v = to - from < lanes ? load_part<S>(values + from, to - from) : S::load(values + from);
      sum = sum + v * v;
    }
    for (int64_t j = 0; j < lanes; ++j) total += sum[j];
    from = to;
  }
  return total;
}

template <SimdPath Path, typename T>
void adam_step_cpu(const AdamParameter<T>& p, T scale, T tau) {
  using S = Simd<T>;
  *p.step += 1.0f;
  const double step = *p.step;
  const double correction1 = 1.0 - __builtin_pow(p.beta1, step);
  const double correction2 = 1.0 - __builtin_pow(p.beta2, step);
  const T step_size = static_cast<T>(p.lr / correction1);
  const T inverse_root2 = static_cast<T>(1.0 / __builtin_sqrt(correction2));
  const T beta2 = static_cast<T>(p.beta2), eps = static_cast<T>(p.eps);
  const T rest1 = static_cast<T>(1.0 - p.beta1), rest2 = static_cast<T>(1.0 - p.beta2);
  const T decay = static_cast<T>(p.decoupled ? 0.0 : p.weight_decay);
  const T keep = static_cast<T>(p.decoupled ? 1.0 - p.lr * p.weight_decay : 1.0);
  const auto update = [=](auto g, auto& m, auto& v, auto& x) {
    x = x * keep;
    g = g * scale + decay * x;
    m = m + rest1 * (g - m);
    v = v * beta2 + rest2 * g * g;
    x = x - step_size * divide<S>(m, square_root<S>(v) * inverse_root2 + eps);
  };
  const bool follow = p.target != nullptr && tau > T(0);
  const int members = members_for(p.size * kSweepWork, team_size());
  const int64_t line = padded<T>(1), lines = (p.size + line - 1) / line;
  in_team(members, [&](int member) {
    const int64_t first = lines * member / members * line, end = lines * (member + 1) / members * line;
    const int64_t last = end < p.size ? end : p.size;
    follow ? sweep<S, true>(p, first, last, tau, update) : sweep<S, false>(p, first, last, tau, update);
  });
}

template <SimdPath Path, typename T>
void follow_cpu(const T* value, int64_t n, T tau, T* target) {
  using S = Simd<T>;
  for (int64_t i = 0; i < n; i += S::lanes) {
    const size_t here = n - i < int64_t(S::lanes) ? n - i : S::lanes;
    const auto x = S::load_first(value + i, here), old = S::load_first(target + i, here);
    S::store_first(target + i, old + tau * (x - old), here);
  }
}

#define INSTANTIATE(T)                                                                                       \
  template void stack_refresh_cpu<kPath, T>(const Stack<T>&);                                                \
  template void stack_forward_cpu<kPath, T>(const Stack<T>&, const T*, int64_t, int64_t);                    \
  template void stack_backward_cpu<kPath, T>(const Stack<T>&, const Scratch<T>&, const T*, int64_t, int64_t, \
                                             T*, T*);                                                        \
  template void stack_input_gradient_cpu<kPath, T>(const Stack<T>&, const Scratch<T>&, int64_t, T*, int64_t, \
                                                   T*);                                                      \
  template void stack_take_rows_cpu<kPath, T>(const Stack<T>&, const int64_t*, int64_t);                     \
  template void stack_forward_few_cpu<kPath, T>(const Stack<T>&, const T*, int64_t, int64_t, T*, int64_t,    \
                                                T*);                                                         \
  template double squared_norm_cpu<kPath, T>(const T*, int64_t);                                             \
  template void adam_step_cpu<kPath, T>(const AdamParameter<T>&, T, T);                                      \
  template void follow_cpu<kPath, T>(const T*, int64_t, T, T*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace optix_fast
