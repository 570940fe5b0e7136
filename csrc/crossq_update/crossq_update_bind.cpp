#include "crossq_update.h"

#include <new>

#include "learners/squashed_policy_bind.h"

namespace optix_fast {
namespace {

struct CrossqOptions : SoftOptions {
  int64_t policy_delay = 1, updates_before = 0;
};

template <typename T>
void set_options(CrossqArgs<T>& args, const CrossqOptions& options) {
  if (options.policy_delay < 1) throw py::value_error("crossq_update: policy_delay must be positive");
  args.policy_delay = options.policy_delay;
  args.updates_before = options.updates_before;
}

// The layers of a stack that has its memory, batch norms in evaluation mode.
template <typename T>
Stack<T> evaluated(const Stack<T>& stack, Arena& arena) {
  auto* layers = arena.take<Layer<T>>(stack.n);
  for (int64_t i = 0; layers != nullptr && i < stack.n; ++i) {
    new (layers + i) Layer<T>(stack.layers[i]);
    if (is_batch_norm(layers[i].kind)) layers[i].training = false;
  }
  return {layers, stack.n, stack.head};
}

template <typename T>
void allocate(CrossqArgs<T>& args, Arena& arena) {
  args.evaluated_actor = evaluated(args.actor, arena);
  for (int i = 0; i < args.critics.n; ++i) {
    args.evaluated_nets[i] = evaluated(args.critics.nets[i], arena);
  }
}

}  // namespace

void bind_crossq_update(py::module_& m) {
  bind_soft_options<CrossqOptions>(m, "CrossQOptions")
      .required<&CrossqOptions::policy_delay>("policy_delay")
      .optional<&CrossqOptions::updates_before>("updates_before");
  bind_soft_update<CrossqArgs, CrossqOptions>(
      m, "crossq_update", [](auto& args, const CrossqOptions& options) { set_options(args, options); },
      [](auto& args, Arena& arena) { allocate(args, arena); },
      [](auto path, const auto& args) { return crossq_update_cpu<path>(args); });
}

}  // namespace optix_fast
