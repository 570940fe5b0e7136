// Prioritized draws inside a learner: B leaves for each of its K updates, their importance weights, their new
// priorities; and all of it taken back where the learner fails. For the kernel files only.
//
//   mass_j = (j + u_j)·Σp / B,  weight_j = (min p / p_j)^β,  p ← (|td| + eps)^α, kept within (0, ∞) of float
#pragma once

#include "sum_tree.h"

namespace optix_fast {

struct LeafDraws {
  SumTreeView tree;
  int64_t* positive;  // the tree's count of positive leaves
  double alpha, eps;
  double max_priority;     // the greatest |td| + eps so far
  const double* uniforms;  // [K, B], in [0, 1)
  const double* betas;     // [K]
  int64_t batch;           // B

  double* mass;      // [B]
  float* weights;    // [B]
  float* fresh;      // [B]
  int64_t* touched;  // [B]
  void* scratch;     // prefix_scratch(B) bytes
  int64_t* drawn;    // [K, B]
  float* before;     // [K, B]: the priorities with which they were drawn
};

namespace {

// Leaves and weights of update k. False where every priority is zero.
template <SimdPath Path>
bool draw_leaves(const LeafDraws& d, int64_t k) {
  const double total = d.tree.sums[d.tree.levels - 1][0];
  if (!(total > 0.0)) return false;
  const double step = total / static_cast<double>(d.batch);
  for (int64_t j = 0; j < d.batch; ++j) {
    const double mass = (static_cast<double>(j) + d.uniforms[k * d.batch + j]) * step;
    d.mass[j] = mass < total ? mass : total;
  }
  float* priorities = d.before + k * d.batch;
  sum_tree_find_cpu<Path>(d.tree, d.batch, d.mass, d.drawn + k * d.batch, priorities, d.scratch);
  sum_tree_weights_cpu<Path>(d.batch, priorities, static_cast<float>(d.betas[k]), d.weights);
  return true;
}

// Whether every leaf of update k is one of the n rows that there are; a tree may have leaves beyond.
inline bool leaves_have_rows(const LeafDraws& d, int64_t k, int64_t n) {
  const int64_t* drawn = d.drawn + k * d.batch;
  for (int64_t j = 0; j < d.batch; ++j) {
    if (drawn[j] >= n) return false;
  }
  return true;
}

// The priorities of what update k has drawn, from its TD errors.
template <SimdPath Path, typename T>
void write_priorities(LeafDraws& d, int64_t k, const T* td) {
  constexpr double least = 0x1p-126, greatest = 0x1.fffffep127;
  for (int64_t j = 0; j < d.batch; ++j) {
    const double error = (td[j] < T(0) ? -static_cast<double>(td[j]) : static_cast<double>(td[j])) + d.eps;
    const double priority = __builtin_pow(error, d.alpha);
    d.max_priority = error > d.max_priority ? error : d.max_priority;
    d.fresh[j] = static_cast<float>(priority < least ? least : priority > greatest ? greatest : priority);
  }
  const SumTreeBatch batch{d.batch, d.drawn + k * d.batch, d.fresh, 1};
  *d.positive += sum_tree_update_cpu<Path>(d.tree, batch, d.touched);
}

// The tree as it was before the first of n updates; max_priority is the caller's.
template <SimdPath Path>
void take_back_priorities(const LeafDraws& d, int64_t n) {
  for (int64_t k = n - 1; k >= 0; --k) {
    const SumTreeBatch batch{d.batch, d.drawn + k * d.batch, d.before + k * d.batch, 1};
    *d.positive += sum_tree_update_cpu<Path>(d.tree, batch, d.touched);
  }
}

}  // namespace
}  // namespace optix_fast
