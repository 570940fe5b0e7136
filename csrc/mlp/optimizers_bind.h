// From Python's description of trained parameters to what mlp/trained.h steps on: for the bindings of the
// learners.
#pragma once

#include <iterator>
#include <string>
#include <vector>

#include "mlp_bind.h"
#include "optimizers.h"

namespace optix_fast {

// How many state tensors a parameter's step changes.
template <typename T>
int states_of(const TrainedParameter<T>& p) {
  switch (p.kind) {
    case OptimizerKind::adam:
    case OptimizerKind::adamw:
      return 2;
    case OptimizerKind::sgd:
      return p.momentum != 0.0 ? 1 : 0;
    default:
      return 1 + int(p.momentum > 0.0) + int(p.centered);
  }
}

// The state of a parameter and the numbers of its group; like(tensor, name): its memory.
template <typename T, typename Like>
void read_optimizer(const char* op, TensorReader& reader, const py::tuple& parts, Like like,
                    TrainedParameter<T>& p) {
  p.kind = static_cast<OptimizerKind>(read_name(op, "optimizer", parts[1], kOptimizerNames));
  const auto numbers = py::cast<py::tuple>(parts[5]);
  double* const read[] = {&p.lr,       &p.weight_decay, &p.eps,   &p.alpha,
                          &p.momentum, &p.dampening,    &p.beta1, &p.beta2};
  for (size_t i = 0; i < std::size(read); ++i) *read[i] = py::cast<double>(numbers[i]);
  p.nesterov = py::cast<bool>(numbers[8]);
  p.centered = py::cast<bool>(numbers[9]);
  if (p.kind != OptimizerKind::sgd) {
    p.step = reader.read(parts[2], "step", DType::f32, "[]", {}).template as<float>();
  }
  const auto states = py::cast<py::tuple>(parts[3]);
  const int n = states_of(p);
  if (static_cast<int>(states.size()) != n) {
    throw py::value_error(std::string(op) + ": " + kOptimizerNames[static_cast<int>(p.kind)] + " needs " +
                          std::to_string(n) + " state tensors for a parameter");
  }
  for (int i = 0; i < n; ++i) p.state[i] = like(states[i], "optimizer state");
  p.begins = py::cast<bool>(parts[4]);
}

// Every parameter with its optimizer state: (tensor, kind, step or None, state tensors, begins, numbers), see
// Trained in optix_fast/learners/native/optimizers.py. With `targets` (the same parameters of the target
// network, in the same order) a frozen one is listed too: (tensor,).
template <typename T>
std::vector<TrainedParameter<T>> read_parameters(const char* op, TensorReader& reader, DType dtype,
                                                 const py::list& described,
                                                 const py::list& targets = py::list()) {
  std::vector<TrainedParameter<T>> parameters;
  for (py::handle item : described) {
    const auto parts = py::cast<py::tuple>(item);
    const auto value = py::reinterpret_borrow<py::object>(parts[0]);
    const auto shape = py::cast<std::vector<int64_t>>(py::list(value.attr("shape")));
    const auto ndim = static_cast<int32_t>(shape.size());
    const auto like = [&](py::handle tensor, const char* name) {
      return reader.read(tensor, name, dtype, "like its parameter", shape.data(), ndim).template as<T>();
    };
    TrainedParameter<T> p{};
    p.value = like(value, "parameter");
    if (!targets.empty()) p.target = like(targets[parameters.size()], "target");
    p.size = 1;
    for (int64_t n : shape) p.size *= n;
    p.frozen = parts.size() == 1;
    if (!p.frozen) read_optimizer(op, reader, parts, like, p);
    parameters.push_back(p);
  }
  return parameters;
}

// Parameters of a network that has a target, frozen ones too, each with the target's parameter.
template <typename T>
std::vector<TrainedParameter<T>> read_with_targets(const char* op, TensorReader& reader, DType dtype,
                                                   const py::list& described, const py::list& targets) {
  if (described.empty() || described.size() != targets.size()) {
    throw py::value_error(std::string(op) + ": each parameter needs its target");
  }
  return read_parameters<T>(op, reader, dtype, described, targets);
}

template <typename T>
Trained<T> trained_of(std::vector<TrainedParameter<T>>& parameters) {
  return {parameters.data(), static_cast<int64_t>(parameters.size()), nullptr, nullptr};
}

// Takes the memory in which exchange_saved keeps everything.
template <typename T>
void trained_place(Trained<T>& trained, Arena& arena) {
  int64_t elements = 0;
  for (int64_t i = 0; i < trained.n; ++i) {
    const TrainedParameter<T>& p = trained.parameters[i];
    elements += p.size * (1 + int64_t(p.target != nullptr) + (p.frozen ? 0 : states_of(p)));
  }
  trained.saved = arena.take<T>(elements);
  trained.saved_steps = arena.take<float>(trained.n);
}

// The gradient of each parameter is the one of the layer that has its memory as weight or bias. What has a
// gradient already keeps it.
template <typename T, typename Stacks = std::initializer_list<const Stack<T>*>>
void find_gradients(const char* op, const Trained<T>& trained, const Stacks& stacks) {
  for (int64_t i = 0; i < trained.n; ++i) {
    TrainedParameter<T>& p = trained.parameters[i];
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
