// Soft actor-critic's learning in one call: K updates, each of which draws B transitions from the replay and
// does all that optix_fast/learners/sac/update.py does in torch (Haarnoja et al. 2018), in this order:
//
//   draw         rows given by the caller, or leaves of a sum tree with importance weights w (priorities.h);
//                n-step rewards r and discounts γ^m·(1 − terminated) from replay.h
//   actor        one forward pass over s and s': 2B rows
//   sample, temperature: see learners/squashed_policy.h; everything below uses α from before
//   target       y = r + discount·(min_i Q̄_i(s', a') − α·log π(a'|s')); r where the discount is zero
//   critics      ½·Σ_i mean w·(Q_i(s, a) − y)²; Adam; Q̄ ← Q̄ + τ·(Q − Q̄) in the same sweep over memory
//   actor        mean α·log π(â|s) − min_i Q_i(s, â); Adam. Where several Q_i are the least, each has an equal
//                share of the gradient, as torch.amin
//   memory       learners/squashed_policy.h
//
// CPU: see there.
#pragma once

#include "learners/squashed_policy.h"

namespace optix_fast {

template <SimdPath Path, typename T>
SoftResult sac_update_cpu(const SoftArgs<T>& args);

}  // namespace optix_fast
