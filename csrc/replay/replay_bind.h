// From a buffer's view in Python (optix_fast.buffers.ReplayView) to what the learners' kernels read.
#pragma once

#include <string>

#include "replay.h"
#include "tensor.h"

namespace optix_fast {

// Checks types and shapes; the links are the buffer's own and are trusted.
inline ReplaySource read_replay(const char* op, py::handle view) {
  TensorReader reader(op);
  const TensorView observations =
      reader.first(view.attr("observations"), "observations", {DType::f32}, "[C, D]", {2});
  const int64_t capacity = observations.shape[0], features = observations.shape[1];
  const auto row = [&](const char* name, DType dtype) {
    return reader.read(view.attr(name), name, dtype, "[C]", {capacity});
  };
  ReplaySource source{};
  source.features = features;
  source.observations = observations.as<float>();
  const TensorView extra = reader.first(view.attr("extra"), "extra", {DType::f32}, "[E, D]", {2});
  if (!observations.is_cpu() || !extra.is_cpu() || extra.shape[1] != features) {
    throw py::value_error(std::string(op) + ": extra must be float32 [E, D] with D = " +
                          std::to_string(features) + " on cpu, as the observations");
  }
  source.extra = extra.as<float>();
  source.chain.next = row("next", DType::i64).as<int64_t>();
  source.chain.rewards = row("rewards", DType::f32).as<float>();
  source.chain.terminated = row("terminated", DType::b8).as<uint8_t>();
  source.chain.truncated = row("truncated", DType::b8).as<uint8_t>();
  const TensorView actions =
      reader.first(view.attr("actions"), "actions", {DType::i64, DType::f32}, "[C] or [C, A]", {1, 2});
  if (actions.dtype == DType::i64) {
    source.discrete_actions = row("actions", DType::i64).as<int64_t>();
  } else {
    source.action_width = actions.ndim == 2 ? actions.shape[1] : 1;
    source.actions = actions.as<float>();
    if (actions.shape[0] != capacity || !actions.is_cpu()) {
      throw py::value_error(std::string(op) + ": actions must be float32 [C, A] with C = " +
                            std::to_string(capacity) + " on cpu, as the observations");
    }
  }
  source.size = py::cast<int64_t>(view.attr("size"));
  if (source.size < 0 || source.size > capacity) {
    throw py::value_error(std::string(op) + ": size must be in [0, C] = [0, " + std::to_string(capacity) +
                          "], got " + std::to_string(source.size));
  }
  return source;
}

// The first position whose index is outside [0, size); n if none.
inline int64_t first_bad_row(const int64_t* indices, int64_t n, int64_t size) {
  int64_t b = 0;
  while (b < n && indices[b] >= 0 && indices[b] < size) ++b;
  return b;
}

inline void require_rows(const char* op, const int64_t* indices, int64_t n, int64_t size) {
  const int64_t bad = first_bad_row(indices, n, size);
  if (bad == n) return;
  throw py::value_error(std::string(op) + ": indices must be in [0, size) = [0, " + std::to_string(size) +
                        "), got " + std::to_string(indices[bad]) + " at position " + std::to_string(bad));
}

}  // namespace optix_fast
