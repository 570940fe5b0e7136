// Networks of layers, in place on the weights of the user's own modules: forward, backward.
//
//   dense        Z = X·Wᵀ + b                     X [B, in], W [out, in], b [out]
//   layer_norm   Z = (X − mean)/√(var + ε)∘w + b  over each row; var is the biased one
//   rms_norm     Z = X/√(mean X² + ε)∘w           over each row
//   sum          Z = X + c·X'                     a residual connection
//   product      Z = X∘X'                         a gate
//   concat       Z = X ‖ X'
//   columns      Z = c·X[:, first … first + out]
//   one_hot      Z = e_k, embedding: Z = W[k]     k = X[:, first] − start; NaN where there is no such k
//   dueling      Z = X' + X − mean X              X: advantages [B, K], X': values [B, 1]
//
//   Y = f(Z),  dZ = dY∘f'(Z);  dense: db = Σ_rows dZ, dW = dZᵀ·X, dX = dZ·W
//
// A Stack is a sequence of such layers, each of which reads the stack's input or the outputs of earlier
// layers: X is its source's output, X' its other's. What several layers read receives the sum of their
// gradients, in the order from the last reader to the first. Work memory comes from an arena (mlp_bind.h) that
// each thread keeps, so nothing is allocated once it is large enough. Rows of work matrices are padded with zeros
// to whole cache lines (padded()), which leaves the kernels without ragged columns; W itself stays torch's,
// [out, in] without padding.
//
// All three products run on one kernel, C[M, N] = start + A[M, K]·B[K, N] (gemm.h), which wants the rows of B
// adjacent in memory. dX takes W as it lies; the forward pass takes a transposed copy of it, made anew by
// stack_refresh_cpu whenever the weights have changed, and kept no longer than the caller's call; dW reads
// A = dZᵀ by strides. Activation and derivative are applied to each block of results while it is in the first
// cache.
//
// CPU: one thread, or within a TeamScope (threads.h) several for large products. The order of every sum
// depends on shapes and instruction set alone: the same bits at every call, and for every number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd_path.h"

namespace optix_fast {

// The names are Python's.
enum class Activation : uint8_t {
  identity,
  tanh,
  relu,
  leaky_relu,  // slope
  elu,         // α
  celu,        // α
  selu,
  hardtanh,  // lowest, highest
  sigmoid,
  // From here on f' is computed from Z instead of from Y.
  silu,
  gelu,
  gelu_tanh,
  softplus,  // β, threshold
  log_sigmoid,
  mish,
  softsign,
  hardsigmoid,
  hardswish
};
constexpr const char* kActivationNames[] = {"identity", "tanh",        "relu",     "leaky_relu",  "elu",
                                            "celu",     "selu",        "hardtanh", "sigmoid",     "silu",
                                            "gelu",     "gelu_tanh",   "softplus", "log_sigmoid", "mish",
                                            "softsign", "hardsigmoid", "hardswish"};

constexpr bool keeps_input(Activation a) { return a >= Activation::silu; }

// (Forced inline, as the small members below: a kernel file may leave no copy of a shared function, see
// simd_path.h.)
template <typename T>
[[gnu::always_inline]] constexpr int64_t padded(int64_t n) {
  constexpr int64_t line = 64 / sizeof(T);
  return (n + line - 1) / line * line;
}

// The names are Python's.
enum class LayerKind : uint8_t {
  dense,
  layer_norm,
  rms_norm,
  sum,
  product,
  concat,
  columns,
  one_hot,
  embedding,
  dueling
};
constexpr const char* kLayerNames[] = {"dense",  "layer_norm", "rms_norm", "sum",       "product",
                                       "concat", "columns",    "one_hot",  "embedding", "dueling"};

[[gnu::always_inline]] constexpr bool is_norm(LayerKind kind) {
  return kind == LayerKind::layer_norm || kind == LayerKind::rms_norm;
}
[[gnu::always_inline]] constexpr bool has_other(LayerKind kind) {
  return kind == LayerKind::sum || kind == LayerKind::product || kind == LayerKind::concat ||
         kind == LayerKind::dueling;
}

// What names an entry by a number has no gradient by it.
[[gnu::always_inline]] constexpr bool reads_an_index(LayerKind kind) {
  return kind == LayerKind::one_hot || kind == LayerKind::embedding;
}

constexpr int kInput = -1;  // as a source: the stack's input

template <typename T>
struct Layer {
  LayerKind kind = LayerKind::dense;
  int source = kInput, other = kInput;  // the layers whose outputs it reads
  int64_t in = 0, other_in = 0, out = 0;
  Activation activation = Activation::identity;
  T constants[2] = {0, 0};  // what the activation names above, in that order
  T number = 0;             // a norm's ε; the factor c of a sum or of columns; where the counting of k starts
  int64_t first = 0;
  int64_t entries = 0;        // of an embedding: rows of W
  const T* weight = nullptr;  // [out, in], of a norm [out] or null, of an embedding [entries, out]
  const T* bias = nullptr;    // [out], or null

  // How the gradient by its operands comes together, from stack_place.
  bool writes = true, writes_other = true;  // what arrives first is written, the rest is added
  bool is_only_reader = true;               // of its source
  bool is_differentiated = false;           // by its only reader, a dense layer, which applies f' itself

  // Work memory, from stack_place.
  int64_t stride = 0;              // of the rows of `output`, `before` and of the gradient by them
  T* weight_transposed = nullptr;  // [in, padded(out)]; null where `narrow`
  const T* weight_rows = nullptr;  // [out, padded(in)]: `weight` itself where in fills whole cache lines
  T* weight_padded = nullptr;      // what weight_rows points to otherwise; of a norm [padded(out)]
  T* bias_row = nullptr;           // [padded(out)]
  T* output = nullptr;             // [B, stride]
  T* before = nullptr;             // Z, where keeps_input(activation)
  T* grad_weight = nullptr;        // like weight
  T* grad_bias = nullptr;          // [out]
  T* grad = nullptr;               // by the output [B, stride]; null: Scratch::delta, in turns
  T* normalized = nullptr;         // of a norm: Z before w and b [B, stride]
  T* row_scale = nullptr;          // of a norm: 1/√(var + ε) [B]

  // A last dense layer of few outputs: its rows are not padded, and each output is a dot product.
  [[gnu::always_inline]] bool narrow() const {
    return kind == LayerKind::dense && weight_transposed == nullptr;
  }
};

constexpr int64_t kNarrowOutputs = 8;  // at most so many

template <typename T>
struct Stack {
  Layer<T>* layers = nullptr;
  int64_t n = 0;
  bool head = false;  // its last layer may be narrow

  [[gnu::always_inline]] Layer<T>& last() const { return layers[n - 1]; }
};

// What the stacks of one call share while they run backwards.
template <typename T>
struct Scratch {
  T* delta[2] = {nullptr, nullptr};  // gradients by layer outputs, in turns
  T* wide_grad = nullptr;            // a weight gradient with padded rows
  T* input_grad = nullptr;           // [B, padded(in)]
};

// The copies of weights and biases, from the parameters as they are now.
template <SimdPath Path, typename T>
void stack_refresh_cpu(const Stack<T>& stack);

// Every layer's output for input [rows, input_stride], whose columns from `in` to padded(in) are zero. Space
// for whole sixteens of rows is expected, what is in the surplus rows does not matter.
template <SimdPath Path, typename T>
void stack_forward_cpu(const Stack<T>& stack, const T* input, int64_t input_stride, int64_t rows);

// Every layer's grad_weight and grad_bias, from the gradient by the last output, [rows, last().stride], which
// is overwritten. grad_input: [rows, input_stride], or null.
template <SimdPath Path, typename T>
void stack_backward_cpu(const Stack<T>& stack, const Scratch<T>& scratch, const T* input,
                        int64_t input_stride, int64_t rows, T* grad_output, T* grad_input);

// The gradient by the input alone, and of it the columns from `from`, a whole number of cache lines, on:
// grad_input [rows, padded(in) − from]. grad_output as in stack_backward_cpu.
template <SimdPath Path, typename T>
void stack_input_gradient_cpu(const Stack<T>& stack, const Scratch<T>& scratch, int64_t rows, T* grad_output,
                              int64_t from, T* grad_input);

// Makes the last forward pass that of `rows` alone, n of them, ascending: what a backward pass over a part of
// the batch reads.
template <SimdPath Path, typename T>
void stack_take_rows_cpu(const Stack<T>& stack, const int64_t* rows, int64_t n);

// Outputs of one or a few rows without any prepared copy: out [rows, out_stride], of which the first
// last().out columns are written; lines: a scratch row of padded(widest) for each layer. Rows of the input are
// padded with zeros to whole cache lines. No work memory of the layers is used.
template <SimdPath Path, typename T>
void stack_forward_few_cpu(const Stack<T>& stack, const T* input, int64_t input_stride, int64_t rows,
                           T* lines, int64_t line_stride, T* out, int64_t out_stride);

}  // namespace optix_fast
