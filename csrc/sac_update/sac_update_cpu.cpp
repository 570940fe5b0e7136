#include "sac_update.h"

#include "learners/squashed_policy_cpu.h"

namespace optix_fast {

template <SimdPath Path, typename T>
SoftResult sac_update_cpu(const SoftArgs<T>& a) {
  const Critics<T>& c = a.critics;
  const auto fit = [&](T alpha) {
    set_least_targets(a, c.targets, 0, alpha);
    return squared_errors(c, a.draws, 1.0);
  };
  const auto value = [&](int64_t row) { return share_least(c, row); };
  return soft_updates<Path>(
      a, [&](int64_t k, SoftResult& result) { return soft_update<Path>(a, k, result, fit, value); });
}

template SoftResult sac_update_cpu<kPath, float>(const SoftArgs<float>&);
template SoftResult sac_update_cpu<kPath, double>(const SoftArgs<double>&);

}  // namespace optix_fast
