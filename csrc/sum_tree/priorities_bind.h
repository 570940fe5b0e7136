// For the bindings of learners that draw by priority.
#pragma once

#include <mutex>

#include "bound_struct.h"
#include "mlp/mlp_bind.h"
#include "priorities.h"
#include "tensor.h"

namespace optix_fast {

// The inside of a SumTree of the CPU. Whoever uses it holds the mutex, and takes that only without the
// interpreter's lock in its hand.
struct SharedTree {
  SumTreeView view;
  int64_t* positive;
  std::mutex* mutex;
};
SharedTree share_tree(py::handle tree);  // in sum_tree_bind.cpp

// What Python gives: the tree, uniforms float64 [K, B], betas float64 [K], and the numbers of priorities.h.
struct PrioritizedDraws {
  py::object tree, uniforms, betas;
  double alpha = 0, eps = 0, max_priority = 0;
};

inline LeafDraws read_leaves(TensorReader& reader, const SharedTree& tree, const PrioritizedDraws& given,
                             int64_t updates, int64_t batch) {
  LeafDraws draws{};
  draws.tree = tree.view;
  draws.positive = tree.positive;
  draws.batch = batch;
  draws.alpha = given.alpha;
  draws.eps = given.eps;
  draws.max_priority = given.max_priority;
  draws.uniforms =
      reader.read(given.uniforms, "uniforms", DType::f64, "[K, B]", {updates, batch}).as<double>();
  draws.betas = reader.read(given.betas, "betas", DType::f64, "[K]", {updates}).as<double>();
  return draws;
}

inline void allocate_leaves(LeafDraws& draws, int64_t updates, Arena& arena) {
  draws.mass = arena.take<double>(draws.batch);
  draws.weights = arena.take<float>(draws.batch);
  draws.fresh = arena.take<float>(draws.batch);
  draws.touched = arena.take<int64_t>(draws.batch);
  draws.scratch = arena.take<unsigned char>(prefix_scratch(draws.batch));
  draws.drawn = arena.take<int64_t>(updates * draws.batch);
  draws.before = arena.take<float>(updates * draws.batch);
}

}  // namespace optix_fast
