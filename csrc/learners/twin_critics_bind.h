// For the bindings of the learners with twin critics.
#pragma once

#include <string>
#include <vector>

#include "draws_bind.h"
#include "twin_critics.h"

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

template <typename T>
void allocate_twins(TwinCritics<T>& c, int64_t batch, Arena& arena) {
  for (int i = 0; i < 2; ++i) {
    for (const Stack<T>* net : {&c.nets[i], &c.targets[i]}) stack_place(*net, batch, arena);
  }
  const int64_t input = padded<T>(c.features + c.width);
  for (T** matrix : {&c.taken, &c.chosen, &c.next, &c.grad_input[0], &c.grad_input[1]}) {
    *matrix = arena.take<T>(whole_rows(batch) * input);
  }
  for (T** column : {&c.y, &c.td}) *column = arena.take<T>(batch);
  for (int i = 0; i < 2; ++i) {
    scratch_place(c.scratch[i], batch, widest(c.nets[i]), arena);
    c.grad_value[i] = arena.take<T>(whole_rows(batch) * c.nets[i].last().stride);
    c.rows[i] = arena.take<int64_t>(batch);
  }
  c.grad_action = arena.take<T>(batch * c.width);
  trained_place(c.trained, arena);
}

template <typename T>
void find_critic_gradients(const char* op, const TwinCritics<T>& c) {
  find_gradients(op, c.trained, {&c.nets[0], &c.nets[1]});
}

}  // namespace optix_fast
