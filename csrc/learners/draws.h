// The minibatches of a learner that learns from a replay: which rows each of its K updates draws, and their
// n-step targets. For the kernel files only.
#pragma once

#include "replay/replay.h"
#include "sum_tree/priorities.h"

namespace optix_fast {

template <typename T>
struct Draws {
  ReplaySource replay;
  int64_t updates, batch;  // K, B
  const int64_t* indices;  // [K, B], rows of the replay; null: by priority
  LeafDraws* leaves;       // or null
  int64_t n_step;
  double gamma;

  // Work memory, [B] each.
  int64_t* after;
  T *rewards, *discounts;
};

// Why update k has no rows: every priority is zero, or the tree has a leaf that the replay has no row for.
enum class DrawFault : uint8_t { none, empty, no_row };

namespace {

// The rows of update k, [B].
template <SimdPath Path, typename T>
DrawFault draw_rows(const Draws<T>& d, int64_t k, const int64_t*& rows) {
  rows = (d.leaves == nullptr ? d.indices : d.leaves->drawn) + k * d.batch;
  if (d.leaves == nullptr) return DrawFault::none;
  if (!draw_leaves<Path>(*d.leaves, k)) return DrawFault::empty;
  return leaves_have_rows(*d.leaves, k, d.replay.size) ? DrawFault::none : DrawFault::no_row;
}

// The importance weights of the last draw, [B]; null where all are 1.
template <typename T>
const float* importance_weights(const Draws<T>& d) {
  return d.leaves == nullptr ? nullptr : d.leaves->weights;
}

// Rows to where `to` says, rewards and discounts to the work memory.
template <SimdPath Path, typename T>
void gather_rows(const Draws<T>& d, const int64_t* rows, ReplayMinibatch<T> to) {
  to.targets.n = d.batch;
  to.targets.indices = rows;
  to.targets.n_step = d.n_step;
  to.targets.gamma = d.gamma;
  to.targets.after = d.after;
  to.targets.rewards = d.rewards;
  to.targets.discounts = d.discounts;
  replay_gather_cpu<Path, T>(d.replay, to);
}

// The priorities of what update k has drawn, from its TD errors [B].
template <SimdPath Path, typename T>
void note_errors(const Draws<T>& d, int64_t k, const T* td) {
  if (d.leaves != nullptr) write_priorities<Path>(*d.leaves, k, td);
}

// The tree as it was before the first of n updates.
template <SimdPath Path, typename T>
void take_back_errors(const Draws<T>& d, int64_t n) {
  if (d.leaves != nullptr) take_back_priorities<Path>(*d.leaves, n);
}

}  // namespace
}  // namespace optix_fast
