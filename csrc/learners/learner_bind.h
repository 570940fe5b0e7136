// What the bindings of all learners share.
#pragma once

#include <limits>
#include <mutex>
#include <optional>

#include "bound_struct.h"
#include "mlp/optimizers_bind.h"
#include "threads.h"

namespace optix_fast {

// Without the interpreter's lock, and with `mutex` where there is one: allocate(arena) as in
// place_in_thread_memory, connect() once the memory is there, then work(path) on the instruction set in use.
template <typename Allocate, typename Connect, typename Work>
auto run_learner(int64_t threads, std::mutex* mutex, Allocate allocate, Connect connect, Work work) {
  const TeamScope team(static_cast<int>(threads < kMaxTeam ? threads : kMaxTeam));
  py::gil_scoped_release release;
  std::unique_lock<std::mutex> lock;
  if (mutex != nullptr) lock = std::unique_lock<std::mutex>(*mutex);
  place_in_thread_memory(allocate);
  connect();
  return dispatch_simd(work);
}

// What the kernels take for a bound that may be off.
inline double bound_or_infinity(const std::optional<double>& bound) {
  return bound.value_or(std::numeric_limits<double>::infinity());
}

// max_grad_norm: 0 is off, too.
inline double norm_bound(const std::optional<double>& max_grad_norm) {
  return max_grad_norm == 0.0 ? bound_or_infinity({}) : bound_or_infinity(max_grad_norm);
}

inline void require_cpu(const char* op, const TensorView& first) {
  if (!first.is_cpu()) throw py::value_error(std::string(op) + ": the core has no CUDA kernel for it");
}

}  // namespace optix_fast
