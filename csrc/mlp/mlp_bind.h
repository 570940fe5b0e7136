// From Python's description of networks to Stacks: for the bindings of everything that runs on mlp.h.
//
// A layer is a tuple (weight [out, in], bias [out] or None, name of the activation, its constants), see
// optix_fast/learners/native/networks.py. The tensors are the user's own; the views borrow (tensor.h).
#pragma once

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

// The numbers that the activation's function depends on, a pair.
template <typename T>
void read_constants(py::handle described, Layer<T>& layer) {
  const auto pair = py::cast<std::pair<double, double>>(described);
  layer.constants[0] = static_cast<T>(pair.first);
  layer.constants[1] = static_cast<T>(pair.second);
}

// Reads the layers; their widths must fit to one another and to `in`, and the last one's is returned.
template <typename T>
int64_t read_layers(TensorReader& reader, DType dtype, const py::list& described, int64_t in,
                    std::vector<Layer<T>>& layers) {
  for (py::handle item : described) {
    const auto parts = py::cast<py::tuple>(item);
    Layer<T> layer;
    const auto weight = py::reinterpret_borrow<py::object>(parts[0]);
    layer.in = in;
    layer.out = py::cast<int64_t>(weight.attr("shape")[py::int_(0)]);
    layer.weight = reader.read(weight, "weight", dtype, "[out, in]", {layer.out, in}).template as<T>();
    if (!parts[1].is_none()) {
      layer.bias = reader.read(parts[1], "bias", dtype, "[out]", {layer.out}).template as<T>();
    }
    layer.activation = read_activation("layer", parts[2]);
    read_constants(parts[3], layer);
    layers.push_back(layer);
    in = layer.out;
  }
  return in;
}

template <typename T>
Stack<T> stack_of(std::vector<Layer<T>>& layers, bool head) {
  return {layers.data(), static_cast<int64_t>(layers.size()), head};
}

template <typename T>
int64_t widest(const Stack<T>& stack) {
  int64_t width = 1;
  for (int64_t i = 0; i < stack.n; ++i) {
    for (int64_t n : {stack.layers[i].in, stack.layers[i].out}) width = n > width ? n : width;
  }
  return width;
}

// Takes the work memory of the layers for batches of at most `rows`.
template <typename T>
void stack_place(const Stack<T>& stack, int64_t rows, Arena& arena) {
  for (int64_t i = 0; i < stack.n; ++i) {
    Layer<T>& l = stack.layers[i];
    const bool narrow = stack.head && i + 1 == stack.n && l.out <= kNarrowOutputs;
    l.stride = narrow ? l.out : padded<T>(l.out);
    if (!narrow) l.weight_transposed = arena.take<T>(l.in * padded<T>(l.out));
    if (l.in != padded<T>(l.in)) l.weight_padded = arena.take<T>(l.out * padded<T>(l.in));
    l.weight_rows = l.weight_padded == nullptr ? l.weight : l.weight_padded;
    l.bias_row = arena.take<T>(padded<T>(l.out));
    l.output = arena.take<T>(whole_rows(rows) * l.stride);
    if (keeps_input(l.activation)) l.before = arena.take<T>(whole_rows(rows) * l.stride);
    l.grad_weight = arena.take<T>(l.out * l.in);
    l.grad_bias = arena.take<T>(l.out);
  }
}

template <typename T>
void scratch_place(Scratch<T>& scratch, int64_t rows, int64_t width, Arena& arena) {
  for (T*& delta : scratch.delta) delta = arena.take<T>(whole_rows(rows) * padded<T>(width));
  scratch.wide_grad = arena.take<T>(padded<T>(width) * padded<T>(width));
}

// Every parameter with its optimizer state: (tensor, step, exp_avg, exp_avg_sq, lr, beta1, beta2, eps,
// weight_decay, decoupled), see adam_parameters in optix_fast/learners/native/networks.py. With `targets` (the same
// parameters of the target network, in the same order) a frozen one is listed too: (tensor,).
template <typename T>
std::vector<AdamParameter<T>> read_parameters(TensorReader& reader, DType dtype, const py::list& described,
                                              const py::list& targets = py::list()) {
  std::vector<AdamParameter<T>> parameters;
  for (py::handle item : described) {
    const auto parts = py::cast<py::tuple>(item);
    const auto value = py::reinterpret_borrow<py::object>(parts[0]);
    const auto shape = py::cast<std::vector<int64_t>>(py::list(value.attr("shape")));
    const auto ndim = static_cast<int32_t>(shape.size());
    const auto like = [&](py::handle tensor, const char* name) {
      return reader.read(tensor, name, dtype, "like its parameter", shape.data(), ndim).template as<T>();
    };
    AdamParameter<T> p{};
    p.value = like(value, "parameter");
    if (!targets.empty()) p.target = like(targets[parameters.size()], "target");
    p.size = 1;
    for (int64_t n : shape) p.size *= n;
    if (parts.size() > 1) {
      p.step = reader.read(parts[1], "step", DType::f32, "[]", {}).template as<float>();
      p.exp_avg = like(parts[2], "exp_avg");
      p.exp_avg_sq = like(parts[3], "exp_avg_sq");
      p.lr = py::cast<double>(parts[4]);
      p.beta1 = py::cast<double>(parts[5]);
      p.beta2 = py::cast<double>(parts[6]);
      p.eps = py::cast<double>(parts[7]);
      p.weight_decay = py::cast<double>(parts[8]);
      p.decoupled = py::cast<bool>(parts[9]);
    }
    parameters.push_back(p);
  }
  return parameters;
}

// Parameters of a network that has a target, frozen ones too, each with the target's parameter.
template <typename T>
std::vector<AdamParameter<T>> read_with_targets(const char* op, TensorReader& reader, DType dtype,
                                                const py::list& described, const py::list& targets) {
  if (described.empty() || described.size() != targets.size()) {
    throw py::value_error(std::string(op) + ": each parameter needs its target");
  }
  return read_parameters<T>(reader, dtype, described, targets);
}

template <typename T>
Trained<T> trained_of(std::vector<AdamParameter<T>>& parameters) {
  return {parameters.data(), static_cast<int64_t>(parameters.size()), nullptr, nullptr};
}

// Takes the memory in which exchange_saved keeps everything.
template <typename T>
void trained_place(Trained<T>& trained, Arena& arena) {
  int64_t elements = 0;
  for (int64_t i = 0; i < trained.n; ++i) {
    const AdamParameter<T>& p = trained.parameters[i];
    elements += p.size * (1 + 2 * int64_t(p.step != nullptr) + int64_t(p.target != nullptr));
  }
  trained.saved = arena.take<T>(elements);
  trained.saved_steps = arena.take<float>(trained.n);
}

// The gradient of each parameter is the one of the layer that has its memory as weight or bias. What has a
// gradient already keeps it.
template <typename T>
void find_gradients(const char* op, const Trained<T>& trained,
                    std::initializer_list<const Stack<T>*> stacks) {
  for (int64_t i = 0; i < trained.n; ++i) {
    AdamParameter<T>& p = trained.parameters[i];
    for (const Stack<T>* stack : stacks) {
      for (int64_t l = 0; l < stack->n; ++l) {
        const Layer<T>& layer = stack->layers[l];
        if (p.value == layer.weight) p.grad = layer.grad_weight;
        if (p.value == layer.bias) p.grad = layer.grad_bias;
      }
    }
    if (p.grad == nullptr) throw py::value_error(std::string(op) + ": a parameter belongs to no layer");
  }
}

}  // namespace optix_fast
