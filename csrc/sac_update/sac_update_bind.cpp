#include "sac_update.h"

#include "learners/squashed_policy_bind.h"

namespace optix_fast {
namespace {

struct SacOptions : SoftOptions {};

}  // namespace

void bind_sac_update(py::module_& m) {
  bind_soft_options<SacOptions>(m, "SACOptions").required<&SacOptions::tau>("tau");
  bind_soft_update<SoftArgs, SacOptions>(
      m, "sac_update", [](auto&, const SacOptions&) {}, [](auto&, Arena&) {},
      [](auto path, const auto& args) { return sac_update_cpu<path>(args); });
}

}  // namespace optix_fast
