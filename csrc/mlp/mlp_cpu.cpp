#include "mlp.h"

#include "batch_norm.h"
#include "dense.h"
#include "dropout.h"

namespace optix_fast {
namespace {

// What a layer reads.
template <typename T>
struct Operand {
  const T* data;
  int64_t stride;
};

template <typename T>
Operand<T> operand(const Stack<T>& stack, int source, const T* input, int64_t input_stride) {
  if (source == kInput) return {input, input_stride};
  const Layer<T>& l = stack.layers[source];
  return {l.output, l.stride};
}

template <typename S, typename T>
void forward(const Stack<T>& stack, Layer<T>& l, const T* input, int64_t input_stride, int64_t rows) {
  const Operand<T> x = operand(stack, l.source, input, input_stride);
  if (l.kind == LayerKind::dense) return forward_dense<S>(l, x.data, x.stride, rows);
  constexpr int64_t lanes = S::lanes;
  const Operand<T> other = operand(stack, l.other, input, input_stride);
  if (is_batch_norm(l.kind)) batch_statistics<S>(l, x.data, x.stride, rows);
  if (drops(l)) draw_mask(l, rows);
  for (int64_t first = 0; first < rows; first += lanes) {
    const int64_t here = rows - first < lanes ? rows - first : lanes;
    T* z = l.output + first * l.stride;
    if (is_norm(l.kind)) {
      T* normalized = l.normalized + first * l.stride;
      const T* from = x.data + first * x.stride;
      if (is_row_norm(l.kind)) {
        normalize_rows<S>(l, from, x.stride, here, normalized, l.row_scale + first);
      } else {
        standardize_rows<S>(l, from, x.stride, here, normalized);
      }
      scale_and_shift<S>(l, normalized, here, z);
    } else if (drops(l)) {
      apply_mask<S>(l, x.data + first * x.stride, x.stride, first, here, z);
    } else {
      for (int64_t i = 0; i < here; ++i) {
        const int64_t row = first + i;
        combine_row<S>(l, x.data + row * x.stride, other.data + row * other.stride, z + i * l.stride);
      }
    }
    with_activation<S>(l.activation, l.constants, [&](auto f) {
      activate<S>(f, z, l.before + first * l.stride, {here, l.stride, l.stride});
    });
  }
}

// One pass from the last layer to the first.
template <typename T>
struct Backward {
  const Stack<T>& stack;
  const Scratch<T>& scratch;
  const T* input;  // null: no gradients by parameters are wanted
  int64_t input_stride, rows;
  T* grad_output;
  T* grad_input;  // null: not wanted

  // The gradient by the output of layer i, or by the stack's input.
  T* delta(int i) const {
    if (i == kInput) return grad_input;
    if (i + 1 == stack.n) return grad_output;
    const Layer<T>& l = stack.layers[i];
    return l.grad != nullptr ? l.grad : scratch.delta[(i + 1) % 2];
  }
};

template <typename S, typename T>
void parameter_gradients(const Backward<T>& b, const Layer<T>& l, const T* delta) {
  const Operand<T> x = operand(b.stack, l.source, b.input, b.input_stride);
  if (l.kind == LayerKind::dense) {
    column_sums<S>(delta, l.stride, b.rows, l.out, l.grad_bias);
    weight_gradient<S>(l, delta, x.data, x.stride, b.rows, b.scratch.wide_grad);
  } else if (is_norm(l.kind)) {
    column_sums<S>(delta, l.stride, b.rows, l.out, l.grad_bias);
    norm_weight_gradient<S>(l, delta, b.rows);
  } else if (l.kind == LayerKind::embedding) {
    embedding_gradient(l, x.data, x.stride, delta, b.rows);
  }
}

// Hands the gradient by the Z of a layer on to what the layer reads.
template <typename S, typename T>
void operand_gradients(const Backward<T>& b, const Layer<T>& l, const T* delta) {
  T* target = b.delta(l.source);
  const bool is_input = l.source == kInput;
  const int64_t stride = is_input ? b.input_stride : b.stack.layers[l.source].stride;
  if (target == nullptr || reads_an_index(l.kind)) {
    // Not wanted, or none.
  } else if (l.kind == LayerKind::dense) {
    if (!is_input && b.stack.layers[l.source].is_differentiated) {
      return gradient_below<S>(l, b.stack.layers[l.source], b.rows, delta, target);
    }
    multiply<S, T>(b.rows, stride, l.out, {delta, l.stride, 1}, {l.weight_rows, padded<T>(l.in)},
                   {l.writes ? nullptr : target, stride}, {target, stride}, kNothing);
  } else if (is_row_norm(l.kind)) {
    norm_backward<S>(l, delta, b.rows, l.writes, target, stride);
  } else if (is_batch_norm(l.kind)) {
    batch_norm_backward<S>(l, delta, b.rows, target, stride);
  } else if (l.kind == LayerKind::dropout) {
    dropout_backward<S>(l, delta, b.rows, target, stride);
  } else if (l.kind == LayerKind::columns) {
    columns_gradient(l, delta, b.rows, target, stride, stride);
  } else {
    const Operand<T> factor = operand(b.stack, l.other, b.input, b.input_stride);
    operand_gradient<S>(l, delta, b.rows, false, factor.data, factor.stride, target, stride);
  }
  if (!has_other(l.kind)) return;
  target = b.delta(l.other);
  if (target == nullptr) return;
  const Operand<T> factor = operand(b.stack, l.source, b.input, b.input_stride);
  const int64_t other_stride = l.other == kInput ? b.input_stride : b.stack.layers[l.other].stride;
  operand_gradient<S>(l, delta, b.rows, true, factor.data, factor.stride, target, other_stride);
}

template <typename S, typename T>
void backward(const Backward<T>& b) {
  bool input_has_gradient = b.grad_input == nullptr;
  for (int64_t i = 0; i < b.stack.n; ++i) {
    const Layer<T>& l = b.stack.layers[i];
    const bool reads_input = l.source == kInput || (has_other(l.kind) && l.other == kInput);
    input_has_gradient = input_has_gradient || (reads_input && !reads_an_index(l.kind));
  }
  if (!input_has_gradient) __builtin_memset(b.grad_input, 0, b.rows * b.input_stride * sizeof(T));
  for (int i = static_cast<int>(b.stack.n) - 1; i >= 0; --i) {
    const Layer<T>& l = b.stack.layers[i];
    T* delta = b.delta(i);
    if (!l.is_differentiated) differentiate_output<S>(l, b.rows, delta);
    // (A batch norm's gradient by its input needs its gradients by w and b.)
    if (b.input != nullptr || is_batch_norm(l.kind)) parameter_gradients<S>(b, l, delta);
    operand_gradients<S>(b, l, delta);
  }
}

}  // namespace

template <SimdPath Path, typename T>
void stack_refresh_cpu(const Stack<T>& stack) {
  using S = Simd<T>;
  for (int64_t i = 0; i < stack.n; ++i) {
    const Layer<T>& l = stack.layers[i];
    if (l.kind != LayerKind::dense && !is_norm(l.kind)) continue;
    const int64_t width = padded<T>(l.out);
    for (int64_t o = 0; o < width; ++o) l.bias_row[o] = l.bias != nullptr && o < l.out ? l.bias[o] : T(0);
    if (is_norm(l.kind)) {
      for (int64_t o = 0; o < width; ++o) {
        l.weight_padded[o] = o >= l.out ? T(0) : l.weight == nullptr ? T(1) : l.weight[o];
      }
      continue;
    }
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
    forward<Simd<T>>(stack, stack.layers[i], input, input_stride, rows);
  }
}

template <SimdPath Path, typename T>
void stack_forward_halves_cpu(const Stack<T>& stack, const T* input, int64_t input_stride, int64_t n,
                              T* kept) {
  const int64_t size = n * stack.last().stride;
  stack_forward_cpu<Path, T>(stack, input + n * input_stride, input_stride, n);
  __builtin_memcpy(kept, stack.last().output, size * sizeof(T));
  stack_forward_cpu<Path, T>(stack, input, input_stride, n);
  __builtin_memcpy(stack.last().output + size, kept, size * sizeof(T));
}

template <SimdPath Path, typename T>
void stack_backward_cpu(const Stack<T>& stack, const Scratch<T>& scratch, const T* input,
                        int64_t input_stride, int64_t rows, T* grad_output, T* grad_input) {
  backward<Simd<T>>(Backward<T>{stack, scratch, input, input_stride, rows, grad_output, grad_input});
}

template <SimdPath Path, typename T>
void stack_input_gradient_cpu(const Stack<T>& stack, const Scratch<T>& scratch, int64_t rows, T* grad_output,
                              int64_t from, T* grad_input) {
  using S = Simd<T>;
  const Layer<T>& first = stack.layers[0];
  const int64_t width = padded<T>(first.in), columns = width - from;
  if (first.kind == LayerKind::dense && first.is_only_reader) {
    // Of what the input is multiplied with, only the columns that are asked for.
    const Backward<T> above{stack, scratch, nullptr, width, rows, grad_output, nullptr};
    backward<S>(above);
    multiply<S, T>(rows, columns, first.out, {above.delta(0), first.stride, 1},
                   {first.weight_rows + from, width}, {nullptr, 0}, {grad_input, columns}, kNothing);
    return;
  }
  backward<S>(Backward<T>{stack, scratch, nullptr, width, rows, grad_output, scratch.input_grad});
  copy_rows(scratch.input_grad + from, width, rows, columns, grad_input, columns);
}

template <SimdPath Path, typename T>
void stack_take_rows_cpu(const Stack<T>& stack, const int64_t* rows, int64_t n) {
  for (int64_t i = 0; i < stack.n; ++i) {
    const Layer<T>& l = stack.layers[i];
    for (T* values : {l.output, l.before, l.normalized}) {
      if (values == nullptr) continue;
      for (int64_t k = 0; k < n; ++k) {
        __builtin_memmove(values + k * l.stride, values + rows[k] * l.stride, l.stride * sizeof(T));
      }
    }
    for (int64_t k = 0; l.row_scale != nullptr && k < n; ++k) l.row_scale[k] = l.row_scale[rows[k]];
  }
}

template <SimdPath Path, typename T>
void stack_forward_few_cpu(const Stack<T>& stack, const T* input, int64_t input_stride, int64_t rows,
                           T* lines, int64_t line_stride, T* out, int64_t out_stride) {
  using S = Simd<T>;
  for (int64_t row = 0; row < rows; ++row) {
    const T* own = input + row * input_stride;
    const auto line = [&](int i) { return i == kInput ? own : lines + i * line_stride; };
    for (int64_t i = 0; i < stack.n; ++i) {
      const Layer<T>& l = stack.layers[i];
      T* y = lines + i * line_stride;
      if (l.kind == LayerKind::dense) {
        dense_row<S>(l, line(l.source), y);
        continue;
      }
      if (is_norm(l.kind)) {
        T row_scale[S::lanes];
        if (is_row_norm(l.kind)) {
          normalize_rows<S>(l, line(l.source), 0, 1, y, row_scale);
        } else {
          standardize_row<S>(l, line(l.source), y);
        }
        affine_row<S>(l, y);
      } else {
        combine_row<S>(l, line(l.source), line(l.other), y);
      }
      with_activation<S>(l.activation, l.constants, [&](auto f) {
        for (int64_t j = 0; j < l.out; j += S::lanes) S::store(y + j, f.value(S::load(y + j)));
      });
    }
    copy_rows(line(static_cast<int>(stack.n) - 1), 0, 1, stack.last().out, out + row * out_stride, 0);
  }
}

#define INSTANTIATE(T)                                                                                       \
  template void stack_refresh_cpu<kPath, T>(const Stack<T>&);                                                \
  template void stack_forward_cpu<kPath, T>(const Stack<T>&, const T*, int64_t, int64_t);                    \
  template void stack_forward_halves_cpu<kPath, T>(const Stack<T>&, const T*, int64_t, int64_t, T*);         \
  template void stack_backward_cpu<kPath, T>(const Stack<T>&, const Scratch<T>&, const T*, int64_t, int64_t, \
                                             T*, T*);                                                        \
  template void stack_input_gradient_cpu<kPath, T>(const Stack<T>&, const Scratch<T>&, int64_t, T*, int64_t, \
                                                   T*);                                                      \
  template void stack_take_rows_cpu<kPath, T>(const Stack<T>&, const int64_t*, int64_t);                     \
  template void stack_forward_few_cpu<kPath, T>(const Stack<T>&, const T*, int64_t, int64_t, T*, int64_t,    \
                                                T*, int64_t);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace optix_fast
