// What the bindings of the learners that learn from a replay share: the draws as Python gives them.
#pragma once

#include <mutex>
#include <optional>
#include <string>

#include "draws.h"
#include "learner_bind.h"
#include "replay/replay_bind.h"
#include "sum_tree/priorities_bind.h"

namespace optix_fast {

// UniformDraws or PrioritizedDraws, for the length of one call. Holds what Draws::leaves points to.
class GivenDraws {
 public:
  GivenDraws(const char* op, py::handle given) : op_(op) {
    if (py::isinstance<UniformDraws>(given)) {
      uniform_ = &py::cast<const UniformDraws&>(given);
    } else if (py::isinstance<PrioritizedDraws>(given)) {
      prioritized_ = &py::cast<const PrioritizedDraws&>(given);
    } else {
      throw py::type_error(std::string(op) + ": draws must be UniformDraws or PrioritizedDraws, got " +
                           Py_TYPE(given.ptr())->tp_name);
    }
  }
  GivenDraws(const GivenDraws&) = delete;
  GivenDraws& operator=(const GivenDraws&) = delete;

  // K and B, from the draws themselves.
  template <typename T>
  void read_sizes(Draws<T>& draws) const {
    TensorReader own(op_);
    const TensorView view = prioritized_ == nullptr
                                ? own.first(uniform_->indices, "indices", {DType::i64}, "[K, B]", {2})
                                : own.first(prioritized_->uniforms, "uniforms", {DType::f64}, "[K, B]", {2});
    draws.updates = view.shape[0];
    draws.batch = view.shape[1];
    if (draws.batch < 1) throw py::value_error(std::string(op_) + ": a batch must hold at least one row");
  }

  // The rest, for the replay, K and B that are in `draws`.
  template <typename T>
  void read(TensorReader& reader, int64_t n_step, double gamma, Draws<T>& draws) {
    draws.n_step = n_step;
    draws.gamma = gamma;
    const int64_t updates = draws.updates, batch = draws.batch;
    if (prioritized_ == nullptr) {
      draws.indices = reader.read(uniform_->indices, "indices", DType::i64, "[K, B]", {updates, batch})
                          .template as<int64_t>();
      require_rows(op_, draws.indices, updates * batch, draws.replay.size);
      return;
    }
    tree_ = share_tree(prioritized_->tree);
    leaves_ = read_leaves(reader, tree_, *prioritized_, updates, batch);
    draws.leaves = &leaves_;
  }

  // To be held while the tree is used; null for uniform draws.
  std::mutex* mutex() const { return tree_.mutex; }

  // The greatest priority after an update that succeeded, before one that did not; nothing for uniform draws.
  std::optional<double> max_priority(bool succeeded) const {
    if (prioritized_ == nullptr) return {};
    return succeeded ? leaves_.max_priority : prioritized_->max_priority;
  }

  void require_drawn(DrawFault fault) const {
    if (fault == DrawFault::empty) {
      throw py::value_error(std::string(op_) + ": nothing to draw: every priority is zero");
    }
    if (fault == DrawFault::no_row) {
      throw py::value_error(std::string(op_) +
                            ": the tree has a priority for a row that the replay does not hold");
    }
  }

 private:
  const char* op_;
  const UniformDraws* uniform_ = nullptr;
  const PrioritizedDraws* prioritized_ = nullptr;
  SharedTree tree_{};
  LeafDraws leaves_{};
};

template <typename T>
void allocate_draws(Draws<T>& draws, Arena& arena) {
  draws.after = arena.take<int64_t>(draws.batch);
  for (T** column : {&draws.rewards, &draws.discounts}) *column = arena.take<T>(draws.batch);
  if (draws.leaves != nullptr) allocate_leaves(*draws.leaves, draws.updates, arena);
}

}  // namespace optix_fast
