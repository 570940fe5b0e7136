#include "dqn_update.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <mutex>
#include <string>

#include "replay/replay_bind.h"
#include "sum_tree/priorities_bind.h"
#include "threads.h"

namespace optix_fast {
namespace {

template <typename T>
void place(DqnUpdateArgs<T>& args, Arena& arena) {
  const int64_t rows = args.batch, stride = padded<T>(args.replay.features);
  for (const Stack<T>* stack : {&args.online, &args.target}) stack_place(*stack, rows, arena);
  scratch_place(args.scratch, rows, std::max(args.replay.features, widest(args.online)), arena);
  for (T** matrix : {&args.observations, &args.next_observations}) {
    *matrix = arena.take<T>(whole_rows(rows) * stride);
  }
  for (int64_t** column : {&args.actions, &args.after, &args.best}) *column = arena.take<int64_t>(rows);
  for (T** column : {&args.rewards, &args.discounts, &args.td}) *column = arena.take<T>(rows);
  if (args.replay.masks.bytes > 0) args.next_masks = arena.take<uint8_t>(rows * args.replay.masks.bytes);
  args.grad_output = arena.take<T>(whole_rows(rows) * args.online.last().stride);
  if (args.draws != nullptr) draws_place(*args.draws, args.updates, arena);
  trained_place(args.trained, arena);
}

// draws: {"indices"}, or {"tree", "uniforms", "betas", "alpha", "eps", "max_priority"}.
// Returns (what failed, updates, copies of the target, loss, |td|, value, max_priority).
template <typename T>
py::tuple dqn_update(TensorReader& reader, DType dtype, const py::tuple& networks, const py::list& parameters,
                     const py::list& targets, py::handle replay, const py::dict& drawn,
                     const py::dict& options) {
  DqnUpdateArgs<T> args{};
  args.replay = read_replay("dqn_update", replay);
  if (args.replay.discrete_actions == nullptr) {
    throw py::value_error("dqn_update: actions must be int64 [C], one of the network's outputs each");
  }
  std::vector<Layer<T>> layers[2];
  int64_t outputs[2];
  for (int i = 0; i < 2; ++i) {
    outputs[i] = read_layers<T>(reader, dtype, networks[i], args.replay.features, layers[i]);
  }
  if (layers[0].empty() || layers[1].empty() || outputs[0] != outputs[1]) {
    throw py::value_error("dqn_update: network and target network must have the same outputs");
  }
  if (args.replay.masks.bytes > 0 && args.replay.masks.bytes != outputs[0]) {
    throw py::value_error("dqn_update: action_masks must have one entry for each of the network's " +
                          std::to_string(outputs[0]) + " actions, got " +
                          std::to_string(args.replay.masks.bytes));
  }
  args.online = stack_of(layers[0], true);
  args.target = stack_of(layers[1], true);
  if (py::len(parameters) != py::len(targets)) {
    throw py::value_error("dqn_update: each parameter needs its target");
  }
  std::vector<AdamParameter<T>> adam = read_parameters<T>(reader, dtype, parameters, targets);
  args.trained = trained_of(adam);

  const bool prioritized = drawn.contains("tree");
  const py::object given = drawn[prioritized ? "uniforms" : "indices"];
  args.updates = py::cast<int64_t>(given.attr("shape")[py::int_(0)]);
  args.batch = py::cast<int64_t>(given.attr("shape")[py::int_(1)]);
  if (args.batch < 1) throw py::value_error("dqn_update: a batch must hold at least one row");
  SharedTree tree{};
  PrioritizedDraws draws{};
  if (prioritized) {
    tree = share_tree(drawn["tree"]);
    draws = read_draws(reader, tree, given, drawn["betas"], args.updates, args.batch);
    draws.alpha = py::cast<double>(drawn["alpha"]);
    draws.eps = py::cast<double>(drawn["eps"]);
    draws.max_priority = py::cast<double>(drawn["max_priority"]);
    args.draws = &draws;
  } else {
    args.indices = reader.read(given, "indices", DType::i64, "[K, B]", {args.updates, args.batch})
                       .template as<int64_t>();
    require_rows("dqn_update", args.indices, args.updates * args.batch, args.replay.size);
  }
  args.n_step = py::cast<int64_t>(options["n_step"]);
  args.gamma = py::cast<double>(options["gamma"]);
  args.double_q = py::cast<bool>(options["double_q"]);
  args.huber = py::cast<bool>(options["huber"]);
  args.max_norm = py::cast<double>(options["max_norm"]);
  args.tau = py::cast<double>(options["tau"]);
  args.target_update_freq = py::cast<int64_t>(options["target_update_freq"]);
  args.updates_before = py::cast<int64_t>(options["updates_before"]);
  if (args.target_update_freq < 1) throw py::value_error("dqn_update: target_update_freq must be positive");

  const double max_priority = draws.max_priority;
  DqnUpdateResult result;
  {
    const TeamScope team(py::cast<int>(options["threads"]));
    py::gil_scoped_release release;
    std::unique_lock<std::mutex> lock;
    if (prioritized) lock = std::unique_lock<std::mutex>(*tree.mutex);
    place_in_thread_memory([&](Arena& arena) { place(args, arena); });
    find_gradients("dqn_update", args.trained, {&args.online});
    result = dispatch_simd([&](auto path) { return dqn_update_cpu<path>(args); });
  }
  if (result.failure == DqnUpdateResult::action) {
    throw py::value_error("dqn_update: the action is none of the network's at row " +
                          std::to_string(result.row) + " of the replay");
  }
  if (result.failure == DqnUpdateResult::empty) {
    throw py::value_error("dqn_update: nothing to draw: every priority is zero");
  }
  if (result.failure == DqnUpdateResult::no_row) {
    throw py::value_error("dqn_update: the tree has a priority for a row that the replay has not");
  }
  const char* const names[] = {nullptr, "target", "loss", "gradient"};
  const char* failed = names[result.failure];
  return py::make_tuple(failed == nullptr ? py::object(py::none()) : py::str(failed), result.updates,
                        result.copies, result.loss_sum, result.td_sum, result.value_sum,
                        failed == nullptr ? draws.max_priority : max_priority);
}

py::tuple dqn_update_entry(const py::tuple& networks, const py::list& parameters, const py::list& targets,
                           py::handle replay, const py::dict& drawn, const py::dict& options) {
  if (parameters.empty()) throw py::value_error("dqn_update: parameters must not be empty");
  TensorReader reader("dqn_update");
  const auto entry = py::cast<py::tuple>(parameters[0]);
  const TensorView first = reader.first(entry[0], "parameter", {DType::f32, DType::f64}, "", {1, 2});
  if (!first.is_cpu()) throw py::value_error("dqn_update: the core has no CUDA kernel for it");
  const auto run = first.dtype == DType::f32 ? &dqn_update<float> : &dqn_update<double>;
  return run(reader, first.dtype, networks, parameters, targets, replay, drawn, options);
}

}  // namespace

void bind_dqn_update(py::module_& m) { m.def("dqn_update", &dqn_update_entry); }

}  // namespace optix_fast
