// From Python's description of networks to Stacks: for the bindings of everything that runs on mlp.h.
//
// A layer is a tuple of LayerParts, see Layer.described in optix_fast/networks/plan.py. The tensors are the
// user's own; the views borrow (tensor.h).
#pragma once

#include <limits>
#include <vector>

#include "bound_struct.h"
#include "mlp.h"
#include "tensor.h"

namespace optix_fast {

// Hands out pieces of one block of memory, each on its own cache lines. Without a block it only counts.
class Arena {
 public:
  explicit Arena(unsigned char* base) : base_(base) {}
  template <typename T>
  T* take(int64_t n) {
    T* piece = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (static_cast<size_t>(n) * sizeof(T) + 63) / 64 * 64;
    return piece;
  }
  size_t used() const { return used_; }

 private:
  unsigned char* base_;
  size_t used_ = 0;
};

// `bytes` of zeroed memory on a cache line, which belong to the calling thread until it asks again.
unsigned char* thread_memory(size_t bytes);

// Calls place(arena) twice: to count, then with the memory of the calling thread.
template <typename Place>
void place_in_thread_memory(Place place) {
  Arena counting(nullptr);
  place(counting);
  Arena arena(thread_memory(counting.used()));
  place(arena);
}

// Work matrices have room for whole sixteens of rows.
inline int64_t whole_rows(int64_t rows) { return (rows + 15) / 16 * 16; }

inline Activation read_activation(const char* op, py::handle name) {
  return static_cast<Activation>(read_name(op, "activation", name, kActivationNames));
}

// What a described layer (optix_fast/networks/plan.py) is but for its parameters and state, which the callers
// find in their own way. Its sources must be earlier layers or the input, of `in` columns, with fitting widths.
enum LayerPart {
  kKind,
  kSource,
  kOther,
  kOut,
  kActivation,
  kConstants,
  kNumber,
  kFirst,
  kWeight,
  kBias,
  kState,
  kLayerParts
};

template <typename T>
Layer<T> read_layer(const char* op, const py::tuple& parts, int64_t in,
                    const std::vector<Layer<T>>& earlier) {
  Layer<T> l;
  l.kind = static_cast<LayerKind>(read_name(op, "kind", parts[kKind], kLayerNames));
  l.activation = read_activation(op, parts[kActivation]);
  const auto constants = py::cast<std::pair<double, double>>(parts[kConstants]);
  l.constants[0] = static_cast<T>(constants.first);
  l.constants[1] = static_cast<T>(constants.second);
  l.number = static_cast<T>(py::cast<double>(parts[kNumber]));
  // RMSNorm's ε, where none is given.
  if (l.kind == LayerKind::rms_norm && l.number < 0) l.number = std::numeric_limits<T>::epsilon();
  l.first = py::cast<int64_t>(parts[kFirst]);
  l.out = py::cast<int64_t>(parts[kOut]);
  const auto width_of = [&](LayerPart part, int& source) {
    source = py::cast<int>(parts[part]);
    if (source < kInput || source >= static_cast<int>(earlier.size())) {
      throw py::value_error(std::string(op) + ": a layer must read the input or an earlier layer");
    }
    return source == kInput ? in : earlier[source].out;
  };
  l.in = width_of(kSource, l.source);
  if (has_other(l.kind)) l.other_in = width_of(kOther, l.other);
  const auto fits = [&] {
    switch (l.kind) {
      case LayerKind::dense:
        return l.out > 0 && l.in > 0;
      case LayerKind::layer_norm:
      case LayerKind::rms_norm:
      case LayerKind::batch_norm:
      case LayerKind::batch_renorm:
      case LayerKind::dropout:
        return l.out == l.in;
      case LayerKind::sum:
      case LayerKind::product:
        return l.out == l.in && l.out == l.other_in;
      case LayerKind::concat:
        return l.out == l.in + l.other_in;
      case LayerKind::columns:
        return l.first >= 0 && l.out > 0 && l.first + l.out <= l.in;
      case LayerKind::one_hot:
      case LayerKind::embedding:
        return l.first >= 0 && l.first < l.in && l.out > 0 && l.source == kInput;
      default:
        return l.out == l.in && l.other_in == 1;
    }
  };
  if (!fits()) {
    throw py::value_error(std::string(op) + ": " + kLayerNames[static_cast<int>(l.kind)] + " of " +
                          std::to_string(l.out) + " columns does not fit what it reads");
  }
  return l;
}

// The shape of a layer's weight; empty where it has none.
template <typename T>
std::vector<int64_t> weight_shape(const Layer<T>& l) {
  if (l.kind == LayerKind::dense) return {l.out, l.in};
  if (l.kind == LayerKind::embedding) return {l.entries, l.out};
  if (is_norm(l.kind)) return {l.out};
  return {};
}

template <typename T>
int64_t weight_size(const Layer<T>& l) {
  int64_t size = 1;
  const std::vector<int64_t> shape = weight_shape(l);
  for (int64_t n : shape) size *= n;
  return shape.empty() ? 0 : size;
}

// What a layer that works on batches has beside its parameters: (training, key) of a dropout; of a batch norm
// (training, momentum, r_max, d_max, warmup_steps, running_mean, running_var, num_batches_tracked).
template <typename T>
void read_state(TensorReader& reader, DType dtype, const py::tuple& state, Layer<T>& l) {
  l.training = py::cast<bool>(state[0]);
  if (l.kind == LayerKind::dropout) {
    l.key = py::cast<uint64_t>(state[1]);
    return;
  }
  RunningStatistics<T>& r = l.running;
  r.momentum = static_cast<T>(py::cast<double>(state[1]));
  r.r_max = static_cast<T>(py::cast<double>(state[2]));
  r.d_max = static_cast<T>(py::cast<double>(state[3]));
  r.warmup_steps = py::cast<int64_t>(state[4]);
  r.mean = reader.read(state[5], "running_mean", dtype, "[out]", {l.out}).template as<T>();
  r.var = reader.read(state[6], "running_var", dtype, "[out]", {l.out}).template as<T>();
  r.batches = reader.read(state[7], "num_batches_tracked", DType::i64, "[]", {}).template as<int64_t>();
}

// Reads the layers of a network with `in` inputs; the width of its output is returned.
template <typename T>
int64_t read_layers(TensorReader& reader, DType dtype, const py::list& described, int64_t in,
                    std::vector<Layer<T>>& layers) {
  for (py::handle item : described) {
    const auto parts = py::cast<py::tuple>(item);
    Layer<T> layer = read_layer<T>("layer", parts, in, layers);
    const py::object weight = parts[kWeight], bias = parts[kBias];
    if (layer.kind == LayerKind::embedding) {
      layer.entries = py::cast<int64_t>(weight.attr("shape")[py::int_(0)]);
    }
    const std::vector<int64_t> shape = weight_shape(layer);
    if (!weight.is_none() || layer.kind == LayerKind::dense) {
      const char* named = layer.kind == LayerKind::dense ? "[out, in]" : "[out]";
      layer.weight =
          reader.read(weight, "weight", dtype, named, shape.data(), static_cast<int32_t>(shape.size()))
              .template as<T>();
    }
    if (!bias.is_none()) {
      layer.bias = reader.read(bias, "bias", dtype, "[out]", {layer.out}).template as<T>();
    }
    if (is_batch_norm(layer.kind) || layer.kind == LayerKind::dropout) {
      read_state(reader, dtype, py::cast<py::tuple>(parts[kState]), layer);
    }
    layers.push_back(layer);
  }
  return layers.empty() ? in : layers.back().out;
}

template <typename T>
Stack<T> stack_of(std::vector<Layer<T>>& layers, bool head) {
  return {layers.data(), static_cast<int64_t>(layers.size()), head};
}

template <typename T>
int64_t widest(const Stack<T>& stack) {
  int64_t width = 1;
  for (int64_t i = 0; i < stack.n; ++i) {
    const Layer<T>& l = stack.layers[i];
    for (int64_t n : {l.in, l.other_in, l.out}) width = n > width ? n : width;
  }
  return width;
}

// Who reads whom: which layers write the gradient by what they read, and which add to it; which layers need
// memory of their own for the gradient by their output.
template <typename T>
void connect_layers(const Stack<T>& stack) {
  const int n = static_cast<int>(stack.n);
  std::vector<int> readers(n + 1, 0), last(n + 1, kInput);  // of the input: behind those of the layers
  const auto at = [n](int source) { return source == kInput ? n : source; };
  for (int i = n - 1; i >= 0; --i) {
    Layer<T>& l = stack.layers[i];
    const auto read = [&](int source) {
      if (readers[at(source)]++ == 0) last[at(source)] = i;
      return readers[at(source)] == 1;
    };
    if (!reads_an_index(l.kind)) l.writes = read(l.source);
    if (has_other(l.kind)) l.writes_other = read(l.other);
  }
  for (int i = 0; i < n; ++i) {
    Layer<T>& l = stack.layers[i];
    l.is_only_reader = readers[at(l.source)] == 1;
    l.is_differentiated = readers[i] == 1 && stack.layers[last[i]].kind == LayerKind::dense;
  }
}

// Whether the gradient by a layer's output may be in the memory that layers take in turns.
template <typename T>
bool takes_turns(const Stack<T>& stack, int i) {
  const int n = static_cast<int>(stack.n);
  int readers = 0;
  for (int k = i + 1; k < n; ++k) {
    const Layer<T>& l = stack.layers[k];
    readers += (l.source == i) + (has_other(l.kind) && l.other == i);
  }
  const Layer<T>& above = stack.layers[i + 1];
  return readers == 1 && (above.source == i || (has_other(above.kind) && above.other == i));
}

// Takes the work memory of the layers for batches of at most `rows`.
template <typename T>
void stack_place(const Stack<T>& stack, int64_t rows, Arena& arena) {
  connect_layers(stack);
  for (int64_t i = 0; i < stack.n; ++i) {
    Layer<T>& l = stack.layers[i];
    const bool is_last = i + 1 == stack.n, is_dense = l.kind == LayerKind::dense;
    const bool narrow = stack.head && is_last && is_dense && l.out <= kNarrowOutputs;
    l.stride = narrow ? l.out : padded<T>(l.out);
    if (is_dense) {
      if (!narrow) l.weight_transposed = arena.take<T>(l.in * padded<T>(l.out));
      if (l.in != padded<T>(l.in)) l.weight_padded = arena.take<T>(l.out * padded<T>(l.in));
      l.weight_rows = l.weight_padded == nullptr ? l.weight : l.weight_padded;
    }
    if (is_norm(l.kind)) {
      l.weight_padded = arena.take<T>(padded<T>(l.out));
      l.normalized = arena.take<T>(whole_rows(rows) * l.stride);
    }
    if (is_row_norm(l.kind)) l.row_scale = arena.take<T>(whole_rows(rows));
    if (is_batch_norm(l.kind)) {
      RunningStatistics<T>& r = l.running;
      for (T** column : {&r.centre, &r.scale, &r.shift, &r.ratio}) *column = arena.take<T>(padded<T>(l.out));
      r.saved = arena.take<T>(2 * l.out);
    }
    if (l.kind == LayerKind::dropout && l.training) {
      l.normalized = arena.take<T>(whole_rows(rows) * l.stride);
      l.uniform = arena.take<float>(rows * l.out);
    }
    if (is_dense || is_norm(l.kind)) l.bias_row = arena.take<T>(padded<T>(l.out));
    l.output = arena.take<T>(whole_rows(rows) * l.stride);
    if (keeps_input(l.activation)) l.before = arena.take<T>(whole_rows(rows) * l.stride);
    l.grad_weight = arena.take<T>(weight_size(l));
    l.grad_bias = arena.take<T>(l.out);
    if (!is_last && !takes_turns(stack, static_cast<int>(i))) {
      l.grad = arena.take<T>(whole_rows(rows) * l.stride);
    }
  }
}

template <typename T>
void scratch_place(Scratch<T>& scratch, int64_t rows, int64_t width, Arena& arena) {
  for (T*& delta : scratch.delta) delta = arena.take<T>(whole_rows(rows) * padded<T>(width));
  scratch.wide_grad = arena.take<T>(padded<T>(width) * padded<T>(width));
  scratch.input_grad = arena.take<T>(whole_rows(rows) * padded<T>(width));
}

}  // namespace optix_fast
