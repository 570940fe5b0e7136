// Networks of layers, in place on the weights of the user's own modules: forward, backward.
//
//   dense        Z = X·Wᵀ + b                     X [B, in], W [out, in], b [out]
//   layer_norm   Z = (X − mean)/√(var + ε)∘w + b  over each row; var is the biased one
//   rms_norm     Z = X/√(mean X² + ε)∘w           over each row
//   batch_norm   Z = (X − mean)/√(var + ε)∘w + b  over each column      (batch_norm.h)
//   batch_renorm the same, moved towards what the running statistics give
//   dropout      Z = X∘M, M = 1/(1 − p) or 0      while training        (dropout.h)
//   sum          Z = X + c·X'                     a residual connection
//   product      Z = X∘X'                         a gate
//   concat       Z = X ‖ X'
//   columns      Z = c·X[:, first … first + out]
//   one_hot      Z = e_k, embedding: Z = W[k]     k = X[:, first] − start; NaN where there is no such k
//   dueling      Z = X' + X − mean X              X: advantages [B, K], X': values [B, 1]
//
//   Y = f(Z),  dZ = dY∘f'(Z);  dense: db = Σ_rows dZ, dW = dZᵀ·X, dX = dZ·W
//
// In training, batch norms and dropout make a row's output depend on the other rows of its pass, or on the pass:
// depends_on_batch(stack). Each such pass counts, and moves the running statistics.
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
  dueling,
  batch_norm,
  batch_renorm,
  dropout
};
constexpr const char* kLayerNames[] = {"dense",      "layer_norm",   "rms_norm", "sum",       "product",
                                       "concat",     "columns",      "one_hot",  "embedding", "dueling",
                                       "batch_norm", "batch_renorm", "dropout"};

[[gnu::always_inline]] constexpr bool is_row_norm(LayerKind kind) {
  return kind == LayerKind::layer_norm || kind == LayerKind::rms_norm;
}
[[gnu::always_inline]] constexpr bool is_batch_norm(LayerKind kind) {
  return kind == LayerKind::batch_norm || kind == LayerKind::batch_renorm;
}
[[gnu::always_inline]] constexpr bool is_norm(LayerKind kind) {
  return is_row_norm(kind) || is_batch_norm(kind);
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

// What a batch norm has beside weight and bias. The running statistics are torch's own buffers.
template <typename T>
struct RunningStatistics {
  T* mean = nullptr;           // [out]
  T* var = nullptr;            // [out]
  int64_t* batches = nullptr;  // how many batches moved them; null where the layer never trains
  T momentum = 0;
  // Of batch_renorm.
  T r_max = 1, d_max = 0;
  int64_t warmup_steps = 0;

  // Work memory, from stack_place: [padded(out)] each.
  T *centre = nullptr, *scale = nullptr, *shift = nullptr, *ratio = nullptr;
  T* saved = nullptr;  // mean and var, for exchange_statistics [2·out]
  int64_t saved_batches = 0;
};

template <typename T>
struct Layer {
  LayerKind kind = LayerKind::dense;
  int source = kInput, other = kInput;  // the layers whose outputs it reads
  int64_t in = 0, other_in = 0, out = 0;
  Activation activation = Activation::identity;
  T constants[2] = {0, 0};  // what the activation names above, in that order
  T number =
      0;  // a norm's ε; the factor c of a sum or of columns; where the counting of k starts; p of dropout
  int64_t first = 0;
  int64_t entries = 0;        // of an embedding: rows of W
  const T* weight = nullptr;  // [out, in], of a norm [out] or null, of an embedding [entries, out]
  const T* bias = nullptr;    // [out], or null
  bool training = false;      // of a batch norm or dropout: it works on batches
  RunningStatistics<T> running;
  uint64_t key = 0;    // of a dropout's random numbers
  int64_t passes = 0;  // in training, since the key was set

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
  T* normalized = nullptr;         // of a norm: Z before w and b [B, stride]; of dropout: M
  float* uniform = nullptr;        // of dropout in training [B·out]
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

// Whether the rows of one pass depend on each other, or on how many passes there were. Rows of several batches
// must not be joined in one pass then, and a backward pass has to have all rows of the forward pass.
template <typename T>
[[gnu::always_inline]] inline bool depends_on_batch(const Stack<T>& stack) {
  for (int64_t i = 0; i < stack.n; ++i) {
    if (stack.layers[i].training) return true;
  }
  return false;
}

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

// Two passes that follow one another, of rows n … 2n of the input, then of rows 0 … n: what depends on the batch
// sees two batches. The last layer's outputs are those of all rows, the others' those of the first n, to which
// a backward pass may follow. kept: scratch [n, last().stride].
template <SimdPath Path, typename T>
void stack_forward_halves_cpu(const Stack<T>& stack, const T* input, int64_t input_stride, int64_t n,
                              T* kept);

// Running statistics to where they are kept, or back.
template <typename T>
[[gnu::always_inline]] inline void exchange_statistics(const Stack<T>& stack, bool restore) {
  for (int64_t i = 0; i < stack.n; ++i) {
    const int64_t n = stack.layers[i].out;
    RunningStatistics<T>& r = stack.layers[i].running;
    if (r.mean == nullptr) continue;
    for (int part = 0; part < 2; ++part) {
      T *live = part == 0 ? r.mean : r.var, *saved = r.saved + part * n;
      __builtin_memcpy(restore ? live : saved, restore ? saved : live, n * sizeof(T));
    }
    if (r.batches != nullptr)
      (restore ? *r.batches : r.saved_batches) = restore ? r.saved_batches : *r.batches;
  }
}

// The running statistics of `from` into the batch norms of `to`, one after the other: what a target network
// takes over whenever its parameters move.
template <typename T>
[[gnu::always_inline]] inline void copy_statistics(const Stack<T>& from, const Stack<T>& to) {
  int64_t at = 0;
  for (int64_t i = 0; i < from.n; ++i) {
    const RunningStatistics<T>& r = from.layers[i].running;
    if (r.mean == nullptr) continue;
    while (to.layers[at].running.mean == nullptr) ++at;
    const RunningStatistics<T>& other = to.layers[at++].running;
    __builtin_memcpy(other.mean, r.mean, from.layers[i].out * sizeof(T));
    __builtin_memcpy(other.var, r.var, from.layers[i].out * sizeof(T));
    *other.batches = *r.batches;
  }
}

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
// the batch reads. Not where depends_on_batch.
template <SimdPath Path, typename T>
void stack_take_rows_cpu(const Stack<T>& stack, const int64_t* rows, int64_t n);

// Outputs of one or a few rows without any prepared copy: out [rows, out_stride], of which the first
// last().out columns are written; lines: a scratch row of padded(widest) for each layer. Rows of the input are
// padded with zeros to whole cache lines. No work memory of the layers is used. Batch norms and dropout evaluate
// here: running statistics, M = 1.
template <SimdPath Path, typename T>
void stack_forward_few_cpu(const Stack<T>& stack, const T* input, int64_t input_stride, int64_t rows,
                           T* lines, int64_t line_stride, T* out, int64_t out_stride);

}  // namespace optix_fast
