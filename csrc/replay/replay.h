// A ring of transitions (o, a, r, o′, terminated, truncated) in order of arrival, each observation stored
// once.
//
//   next[i] ≥ 0   o′ of row i is the observation of row next[i], the same environment's following transition
//   next[i] < 0   o′ is row ~next[i] of the extra observations: row i is the newest of its environment, or
//   its
//                 episode ended there, or what was pushed after it begins elsewhere
//
// push, row by row: what lies in the slot leaves it (its extra row becomes free); where the environment's
// previous row is still there and its o′ has the bytes of the new o, the two are linked and the previous
// one's extra row becomes free; the new row takes a free one for its o′. A link leads to a younger row and
// the oldest row leaves first, so no link outlives its target.
//
// gather of row i with n steps: i = i_0, i_{k+1} = next[i_k] while row i_k is linked and ends nothing, up to
// m ≤ n rows;
//
//   reward = Σ_{k<m} γ^k·r_{i_k},  o′ of the last row,  discount = γ^m·(1 − terminated of the last row)
//
// so a chain that is cut (newest row, truncation) bootstraps from where it stops, m steps on.
//
// Memory: observations [C, …] and extra [E, …], one pair of arrays for each leaf of the observation, of any
// element type: push and gather move bytes. next int64 [C]; free: a stack of the unused extra rows; E is at
// least min(C, used + rows to push). Order of the sums: k ascending, in double.
//
// CPU: a row of a full buffer lies in no cache, and no translation buffer knows its pages. The chains are
// followed first, each member fetching what the members after it will need and its observation; the copies
// then find most of their lines on the way. benchmarks/bench_replay.py has the figures.
#pragma once

#include <cstdint>

#include "simd_path.h"

namespace optix_fast {

// One leaf of the observation: the rows of the ring, the extra rows, and the bytes of one of either.
struct ReplayLeaf {
  unsigned char* rows;
  unsigned char* extra;
  int64_t bytes;
};

// What links and ends the rows.
struct ReplayChain {
  const int64_t* next;
  const float* rewards;
  const uint8_t* terminated;
  const uint8_t* truncated;
};

struct ReplayRing {
  int64_t capacity;
  int64_t n_leaves;
  const ReplayLeaf* leaves;
  unsigned char* actions;
  int64_t action_bytes;
  float* rewards;
  uint8_t* terminated;
  uint8_t* truncated;
  int64_t* next;
  int64_t* free;     // [E]
  int64_t* pending;  // [N]: how many rows had come before the environment's last one; −1: nothing to link to
  int64_t* counts;   // rows that ever came, free extra rows
};

// Rows to push, of any environments; those of one environment in the order in which they happened.
struct ReplayPush {
  int64_t n;
  const int64_t* envs;                       // [n]
  const unsigned char* const* observations;  // by leaf, n rows
  const unsigned char* const* others;        // by leaf
  const int64_t* following;                  // [n]: o′ is that row of observations, or ~that of others
  const unsigned char* actions;
  const float* rewards;
  const uint8_t* terminated;
  const uint8_t* truncated;
};

template <SimdPath Path>
void replay_push_cpu(const ReplayRing& ring, const ReplayPush& rows);

// Follows the chains of n rows. after: next[] of the last row of each; terminated: that row's; steps: m. All
// but `after` may be null: not wanted.
template <typename T>
struct ReplayTargets {
  int64_t n;
  const int64_t* indices;
  int64_t n_step;
  double gamma;
  int64_t* after;
  T* rewards;
  T* discounts;
  uint8_t* terminated;
  int32_t* steps;
};
template <SimdPath Path, typename T>
void replay_follow_cpu(const ReplayChain& chain, const ReplayTargets<T>& targets);

// out row b = the leaf's row at[b], or its extra row ~at[b].
template <SimdPath Path>
void replay_copy_cpu(const ReplayLeaf& leaf, int64_t n, const int64_t* at, unsigned char* out);

// A buffer as the learners read it: one leaf of float32 [C, D], actions int64 [C] or float32 [C, A].
struct ReplaySource {
  int64_t size;  // rows that may be drawn
  int64_t features, action_width;
  const float* observations;
  const float* extra;
  const int64_t* discrete_actions;  // or null and
  const float* actions;
  ReplayChain chain;
};

// One minibatch of it, in the learner's precision. Null outputs are not wanted.
template <typename T>
struct ReplayMinibatch {
  ReplayTargets<T> targets;
  T* observations;       // [n, observations_stride]
  T* next_observations;  // [n, next_stride]
  T* actions;            // [n, actions_stride], of float actions
  int64_t* discrete_actions;
  int64_t observations_stride, next_stride, actions_stride;
};
template <SimdPath Path, typename T>
void replay_gather_cpu(const ReplaySource& source, const ReplayMinibatch<T>& batch);

}  // namespace optix_fast
