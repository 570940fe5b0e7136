// From a buffer's view in Python (optix_fast.buffers.ReplayView) to what the learners' kernels read.
#pragma once

#include <string>

#include "replay.h"
#include "tensor.h"

namespace optix_fast {

// Rows of the replay, int64 [K, B], as Python gives them.
struct UniformDraws {
  py::object indices;
};

// What the view says of its own memory (layout) is trusted, as are the links in it.
inline ReplaySource read_replay(const char* op, py::handle view) {
  TensorReader reader(op);
  const TensorView records = reader.first(view.attr("records"), "records", {DType::u8}, "[C, bytes]", {2});
  const TensorView extra = reader.first(view.attr("extra"), "extra", {DType::f32}, "[E, D]", {2});
  const auto layout = py::cast<py::tuple>(view.attr("layout"));
  ReplaySource source{};
  source.features = py::cast<int64_t>(layout[0]);
  source.action_width = py::cast<int64_t>(layout[1]);
  if (!records.is_cpu() || !extra.is_cpu() || extra.shape[1] != source.features) {
    throw py::value_error(std::string(op) + ": extra must be float32 [E, D] with D = " +
                          std::to_string(source.features) + " on cpu, as the observations");
  }
  const TensorView successor =
      reader.read(view.attr("successor"), "successor", DType::i64, "[E]", {extra.shape[0]});
  source.records = {records.as<unsigned char>(), records.shape[1], successor.as<int64_t>()};
  source.observations = {py::cast<int64_t>(layout[2]), extra.as<unsigned char>(),
                         source.features * int64_t(sizeof(float))};
  const py::object given_masks = view.attr("mask_extra");
  if (!given_masks.is_none()) {
    const TensorView masks = reader.first(given_masks, "mask_extra", {DType::b8}, "[E, K]", {2});
    source.masks = {py::cast<int64_t>(view.attr("mask_offset")), masks.as<unsigned char>(), masks.shape[1]};
    if (masks.shape[0] != extra.shape[0] || source.masks.offset < int64_t(sizeof(ReplayRow)) ||
        source.masks.offset + source.masks.bytes > source.records.bytes) {
      throw py::value_error(std::string(op) +
                            ": mask_extra must be bool [E, K] with the masks in the records");
    }
  }
  unsigned char* action = source.records.memory + sizeof(ReplayRow);
  const int64_t action_bytes = source.action_width == 0 ? 8 : source.action_width * int64_t(sizeof(float));
  if (source.observations.offset < int64_t(sizeof(ReplayRow)) + action_bytes ||
      source.observations.offset + source.observations.bytes > source.records.bytes) {
    throw py::value_error(std::string(op) + ": layout must lie within the records");
  }
  if (source.action_width == 0) {
    source.discrete_actions = reinterpret_cast<const int64_t*>(action);
  } else {
    source.actions = reinterpret_cast<const float*>(action);
  }
  source.size = py::cast<int64_t>(view.attr("size"));
  if (source.size < 0 || source.size > records.shape[0]) {
    throw py::value_error(std::string(op) + ": size must be in [0, C] = [0, " +
                          std::to_string(records.shape[0]) + "], got " + std::to_string(source.size));
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
