// TQC's learning in one call: K updates as in sac_update.h, of n critics that return M quantiles of the return
// each (Kuznetsov et al. 2020; optix_fast/learners/tqc/update.py does it in torch). Different from SAC's:
//
//   target   z: the n·M quantiles of all target critics at (s', a'), sorted, the n·drop greatest left out;
//            y = r + discount·(z − α·log π(a'|s')), r where the discount is zero
//   critics  mean w·ρ, ρ of a row the mean over all critics, quantiles j and atoms of |τ_j − 1(u < 0)|·huber(u),
//            u = y − Z_j(s, a), τ_j = (2j + 1)/2M. With c = clip(u, ±1): huber(u) = c·(u − c/2), ∂ρ/∂Z: −|…|·c
//   actor    mean α·log π(â|s) − mean over all critics and quantiles of Z(s, â)
//   TD error mean_i |mean y − mean_j Z_ij(s, a)|
//
// CPU: one row in each lane of a vector, so that neither the sort nor the sums over pairs cross lanes. The sort
// is Batcher's network of compare-exchanges, the same for every row; a NaN counts as the greatest, as in
// torch.sort.
#pragma once

#include "learners/squashed_policy.h"

namespace optix_fast {

template <typename T>
struct TqcArgs : SoftArgs<T> {
  int64_t dropped;  // of each critic

  T* atoms;  // [n·M, lanes of a vector]
};

template <SimdPath Path, typename T>
SoftResult tqc_update_cpu(const TqcArgs<T>& args);

}  // namespace optix_fast
