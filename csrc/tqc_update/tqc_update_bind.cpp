#include "tqc_update.h"

#include "learners/squashed_policy_bind.h"

namespace optix_fast {
namespace {

struct TqcOptions : SoftOptions {
  int64_t n_quantiles = 0, dropped = 0;
};

template <typename T>
void set_options(TqcArgs<T>& args, const TqcOptions& options) {
  if (options.dropped < 0 || options.dropped >= options.n_quantiles) {
    throw py::value_error("tqc_update: top_quantiles_to_drop_per_net must be below the critics' " +
                          std::to_string(options.n_quantiles) + " quantiles, got " +
                          std::to_string(options.dropped));
  }
  args.critics.outputs = options.n_quantiles;
  args.dropped = options.dropped;
}

template <typename T>
void allocate(TqcArgs<T>& args, Arena& arena) {
  args.atoms = arena.take<T>(args.critics.n * args.critics.outputs * padded<T>(1));
}

}  // namespace

void bind_tqc_update(py::module_& m) {
  bind_soft_options<TqcOptions>(m, "TQCOptions")
      .required<&TqcOptions::tau>("tau")
      .required<&TqcOptions::n_quantiles>("n_quantiles")
      .required<&TqcOptions::dropped>("top_quantiles_to_drop_per_net");
  bind_soft_update<TqcArgs, TqcOptions>(
      m, "tqc_update", [](auto& args, const TqcOptions& options) { set_options(args, options); },
      [](auto& args, Arena& arena) { allocate(args, arena); },
      [](auto path, const auto& args) { return tqc_update_cpu<path>(args); });
}

}  // namespace optix_fast
