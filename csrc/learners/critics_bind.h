// For the bindings of the learners with critics of actions.
#pragma once

#include <list>
#include <string>
#include <vector>

#include "critics.h"
#include "draws_bind.h"

namespace optix_fast {

// The replay, with actions of `width` numbers.
inline ReplaySource read_continuous_replay(const char* op, py::handle view, int64_t width) {
  const ReplaySource replay = read_replay(op, view);
  if (replay.actions == nullptr || replay.action_width != width) {
    throw py::value_error(std::string(op) +
                          ": the replay's actions must be float32 [C, A] with A = " + std::to_string(width));
  }
  return replay;
}

// The layers that stacks point to, for the length of one call.
template <typename T>
class Networks {
 public:
  Networks(const char* op, TensorReader& reader, DType dtype) : op_(op), reader_(reader), dtype_(dtype) {}

  // A list of layers that reads `in` columns and returns `out`.
  Stack<T> read(py::handle described, int64_t in, int64_t out, const char* what) {
    std::vector<Layer<T>>& layers = layers_.emplace_back();
    const int64_t found = read_layers<T>(reader_, dtype_, py::cast<py::list>(described), in, layers);
    if (layers.empty() || found != out) {
      throw py::value_error(std::string(op_) + ": " + what + " must have " + std::to_string(out) +
                            " outputs");
    }
    return stack_of(layers, true);
  }

  // The critics of c, of c.features, c.width and c.outputs. `targets` is empty where there are none.
  void read_critics(const py::list& critics, const py::list& targets, Critics<T>& c) {
    c.n = static_cast<int>(critics.size());
    if (c.n < 1 || c.n > kMaxCritics || (!targets.empty() && targets.size() != critics.size())) {
      throw py::value_error(std::string(op_) + ": there must be 1 to " + std::to_string(kMaxCritics) +
                            " critics, each with its target");
    }
    const int64_t in = c.features + c.width;
    for (int i = 0; i < c.n; ++i) {
      c.nets[i] = read(critics[i], in, c.outputs, "each critic");
      if (!targets.empty()) c.targets[i] = read(targets[i], in, c.outputs, "each target critic");
    }
  }

 private:
  const char* op_;
  TensorReader& reader_;
  DType dtype_;
  std::list<std::vector<Layer<T>>> layers_;
};

// joint: the critics see taken and next in one pass.
template <typename T>
void allocate_critics(Critics<T>& c, int64_t batch, bool joint, Arena& arena) {
  const int64_t input = padded<T>(c.features + c.width);
  const int64_t most = joint ? 2 * batch : batch;
  c.taken = arena.take<T>((batch + whole_rows(2 * batch)) * input);
  c.next = c.taken == nullptr ? nullptr : c.taken + batch * input;
  c.chosen = arena.take<T>(whole_rows(batch) * input);
  for (T** column : {&c.y, &c.td}) *column = arena.take<T>(batch);
  for (int i = 0; i < c.n; ++i) {
    for (const Stack<T>* net : {&c.nets[i], &c.targets[i]}) stack_place(*net, most, arena);
    scratch_place(c.scratch[i], most, widest(c.nets[i]), arena);
    c.by_value[i] = arena.take<T>(batch);
    c.grad_value[i] = arena.take<T>(whole_rows(most) * c.nets[i].last().stride);
    c.grad_input[i] = arena.take<T>(whole_rows(batch) * input);
    c.rows[i] = arena.take<int64_t>(batch);
  }
  c.grad_action = arena.take<T>(batch * c.width);
  trained_place(c.trained, arena);
}

template <typename T>
void find_critic_gradients(const char* op, const Critics<T>& c) {
  std::vector<const Stack<T>*> nets;
  for (int i = 0; i < c.n; ++i) nets.push_back(&c.nets[i]);
  find_gradients(op, c.trained, nets);
}

}  // namespace optix_fast
