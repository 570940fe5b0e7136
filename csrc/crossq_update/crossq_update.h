// CrossQ's learning in one call (Bhatt et al. 2024; optix_fast/learners/crossq/update.py does it in torch): K
// updates, of critics without targets. n counts updates since training began, from 1.
//
//   draw     as in sac_update.h
//   s'       a number that is not finite, of a terminated row, is s's: it would spoil the statistics of all rows
//   sample   a' for s', from the actor, whose batch norms evaluate
//   critics  one forward pass over s ‖ a and s' ‖ a', 2B rows, so that batch norms see both;
//            y = r + discount·(min_i Q_i(s', a') − α·log π(a'|s')), r where the discount is zero;
//            ½·Σ_i mean w·(Q_i(s, a) − y)², whose gradient by the second half of the outputs is zero
//   actor    where policy_delay divides n: â for s from the actor in training mode; the temperature's step;
//            mean α·log π(â|s) − min_i Q_i(s, â), the critics' batch norms evaluate
//
// Dropout is in its own mode in all passes.
//
// Memory: learners/squashed_policy.h; a network whose batch norms evaluate is a second Stack on the same memory.
// Dropout's masks are counted over both, see count_on.
//
// CPU: as there.
#pragma once

#include "learners/squashed_policy.h"

namespace optix_fast {

template <typename T>
struct CrossqArgs : SoftArgs<T> {
  int64_t policy_delay, updates_before;
  Stack<T> evaluated_actor;
  Stack<T> evaluated_nets[kMaxCritics];
};

template <SimdPath Path, typename T>
SoftResult crossq_update_cpu(const CrossqArgs<T>& args);

}  // namespace optix_fast
