// From Python's description of trained parameters to what mlp/trained.h steps on: for the bindings of the
// learners.
#pragma once

#include <string>
#include <vector>

#include "mlp_bind.h"
#include "optimizers.h"

namespace optix_fast {

// Every parameter with its optimizer state: (tensor, step, exp_avg, exp_avg_sq, lr, beta1, beta2, eps,
// weight_decay, decoupled), see adam_parameters in optix_fast/learners/native/optimizers.py. With `targets` (the same
// parameters of the target network, in the same order) a frozen one is listed too: (tensor,).
template <typename T>
std::vector<TrainedParameter<T>> read_parameters(TensorReader& reader, DType dtype, const py::list& described,
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
std::vector<TrainedParameter<T>> read_with_targets(const char* op, TensorReader& reader, DType dtype,
                                                   const py::list& described, const py::list& targets) {
  if (described.empty() || described.size() != targets.size()) {
    throw py::value_error(std::string(op) + ": each parameter needs its target");
  }
  return read_parameters<T>(reader, dtype, described, targets);
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
    elements += p.size * (1 + 2 * int64_t(p.step != nullptr) + int64_t(p.target != nullptr));
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
