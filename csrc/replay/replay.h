// A ring of transitions (o, a, r, o′, terminated, truncated) in order of arrival, each observation stored
// once.
//
//   next[i] ≥ 0   o′ of row i is the observation of row next[i], the same environment's following transition
//   next[i] < 0   o′ is row ~next[i] of the extra observations: row i is the newest of its environment, or
//                 its episode ended there, or what followed it was pushed with other bytes or elsewhere
//
// push, row by row: what lies in the slot leaves it (its extra row becomes free). `joins` says how the new
// row relates to its environment's previous one, where that is still there and ended nothing: it starts a
// chain, goes on from it, or goes on if it begins with the bytes of that row's o′. Where it goes on with these
// bytes, the previous row's next leads to it and the extra row becomes free; where its bytes are others (a
// normalizer has moved between the two pushes) the extra row keeps o′ as it was pushed, and its successor[]
// leads to the new row. The new row takes a free extra row for its o′. Both kinds of link lead to a younger
// row and the oldest row leaves first, so no link outlives its target.
//
// gather of row i with n steps: i = i_0, i_{k+1} = next[i_k] or successor[~next[i_k]] while row i_k is linked
// and ends nothing, up to m ≤ n rows;
//
//   reward = Σ_{k<m} γ^k·r_{i_k},  o′ of the last row,  discount = γ^m·(1 − terminated of the last row)
//
// so a chain that is cut (newest row, truncation) bootstraps from where it stops, m steps on.
//
// Action masks, where there are any, are one more leaf behind those of the observation: that of o, and that
// of o′ in the extra row. Their bytes play no part in what links two rows: the following row's own mask is
// then the mask of o′.
//
// Memory: one record for each row, [C] of them: a header (ReplayRow), the action, the leaves of the
// observation, of any element types. What a draw reads of a row thus lies in neighbouring lines of one page,
// and what followed it in another one; as arrays side by side it would be eight. extra [E, …]: one array for
// each leaf. free: a stack of the unused extra rows; E is at least min(C, used + rows to push). push and
// gather move bytes. Order of the sums: k ascending, in double.
//
// CPU: a record of a full buffer lies in no cache, and no translation buffer knows its page. Members are
// drawn in groups: first the records of all are read, then their chains followed, then what followed each is
// read, then all is copied, so that the misses of a group overlap. benchmarks/bench_replay.py has the
// figures.
#pragma once

#include <cstdint>

#include "simd_path.h"

namespace optix_fast {

// How a record begins.
struct ReplayRow {
  int64_t next;
  float reward;
  uint8_t terminated, truncated;
  uint16_t unused;
};
static_assert(sizeof(ReplayRow) == 16, "the action follows the header");

// One leaf of the observation: where it lies in a record, the extra rows, and the bytes of one of either.
struct ReplayLeaf {
  int64_t offset;
  unsigned char* extra;
  int64_t bytes;
};

struct ReplayRecords {
  unsigned char* memory;  // [C, bytes], aligned to 8
  int64_t bytes;
  int64_t* successor;  // [E]: the row that goes on from the one whose o′ lies there, or −1

  unsigned char* at(int64_t row) const { return memory + row * bytes; }
  ReplayRow& row(int64_t i) const { return *reinterpret_cast<ReplayRow*>(at(i)); }
};

struct ReplayRing {
  ReplayRecords records;
  int64_t capacity;
  int64_t n_leaves;
  int64_t n_compared;  // the first ones: the leaves of the observation
  const ReplayLeaf* leaves;
  int64_t action_bytes;
  int64_t* free;     // [E]
  int64_t* pending;  // [N]: how many rows had come before the environment's last one; −1: nothing to link to
  int64_t* counts;   // rows that ever came, free extra rows
};

// How a row relates to its environment's previous one.
enum ReplayJoin : uint8_t { kReplayBegins, kReplayGoesOn, kReplayIfSame };

// Rows to push, of any environments; those of one environment in the order in which they happened.
struct ReplayPush {
  int64_t n;
  const int64_t* envs;                       // [n]
  const unsigned char* const* observations;  // by leaf, n rows
  const unsigned char* const* others;        // by leaf
  const int64_t* next_index;                 // [n]: o′ is that row of observations, or ~that of others
  const unsigned char* actions;
  const float* rewards;
  const uint8_t* terminated;
  const uint8_t* truncated;
  const uint8_t* joins;  // [n], ReplayJoin
};

template <SimdPath Path>
void replay_push_cpu(const ReplayRing& ring, const ReplayPush& rows);

// The chains of n rows. after: next of the last row of each; terminated: that row's; steps: m. All but
// `after` may be null: not wanted.
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

// Rows with their targets, as bytes. observations[l] and next_observations[l]: [n, leaf bytes].
struct ReplayGather {
  ReplayTargets<float> targets;
  unsigned char* actions;
  unsigned char* const* observations;
  unsigned char* const* next_observations;
};
template <SimdPath Path>
void replay_draw_cpu(const ReplayRing& ring, const ReplayGather& batch);

// A buffer as the learners read it: one leaf of float32 [D], an action of int64 or float32 [A].
struct ReplaySource {
  int64_t size;  // rows that may be drawn
  int64_t features, action_width;
  ReplayRecords records;
  ReplayLeaf observations;
  ReplayLeaf masks;                 // bytes: K, one for each action; 0: there are none
  const int64_t* discrete_actions;  // that of the first record, or null and
  const float* actions;             // that of the first record
};

// One minibatch of it, in the learner's precision. Null outputs are not wanted.
template <typename T>
struct ReplayMinibatch {
  ReplayTargets<T> targets;
  T* observations;       // [n, observations_stride]
  T* next_observations;  // [n, next_stride]
  T* actions;            // [n, actions_stride], of float actions
  int64_t* discrete_actions;
  uint8_t* next_masks;  // [n, K]: the actions allowed at o′
  int64_t observations_stride, next_stride, actions_stride;
};
template <SimdPath Path, typename T>
void replay_gather_cpu(const ReplaySource& source, const ReplayMinibatch<T>& batch);

}  // namespace optix_fast
