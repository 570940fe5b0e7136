#include "sac_update.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <mutex>
#include <string>

#include "replay/replay_bind.h"
#include "sum_tree/priorities_bind.h"
#include "threads.h"

namespace optix_fast {
namespace {

constexpr const char* kOp = "sac_update";

// The networks, from (actor, critic1, critic2, target1, target2), each a list of layers.
template <typename T>
struct Networks {
  std::vector<Layer<T>> layers[5];
};

template <typename T>
Networks<T> read_networks(TensorReader& reader, DType dtype, const py::tuple& described,
                          SacUpdateArgs<T>& args) {
  Networks<T> nets;
  for (int i = 0; i < 5; ++i) {
    const int64_t in = args.features + (i == 0 ? 0 : args.width);
    const int64_t wanted = i == 0 ? 2 * args.width : 1;
    const int64_t out = read_layers<T>(reader, dtype, py::list(described[i]), in, nets.layers[i]);
    if (nets.layers[i].empty() || out != wanted) {
      throw py::value_error("sac_update: the actor must have 2A = " + std::to_string(2 * args.width) +
                            " outputs and each critic one");
    }
  }
  args.actor = stack_of(nets.layers[0], true);
  for (int i = 0; i < 2; ++i) {
    args.critics[i] = stack_of(nets.layers[1 + i], true);
    args.targets[i] = stack_of(nets.layers[3 + i], true);
  }
  return nets;
}

template <typename T>
void place(SacUpdateArgs<T>& args, Arena& arena) {
  const int64_t rows = args.batch, width = args.width;
  const int64_t input = padded<T>(args.features + width), elements = padded<T>(rows * width);
  int64_t widest_of_all = args.features + width;
  stack_place(args.actor, 2 * rows, arena);
  widest_of_all = std::max(widest_of_all, widest(args.actor));
  for (int i = 0; i < 2; ++i) {
    for (const Stack<T>* net : {&args.critics[i], &args.targets[i]}) {
      stack_place(*net, rows, arena);
      widest_of_all = std::max(widest_of_all, widest(*net));
    }
  }
  SacWork<T>& w = args.work;
  scratch_place(w.scratch, rows, widest_of_all, arena);
  w.observations = arena.take<T>(whole_rows(2 * rows) * padded<T>(args.features));
  for (T** inputs : {&w.taken, &w.chosen, &w.following}) *inputs = arena.take<T>(whole_rows(rows) * input);
  for (T** per_row : {&w.rewards, &w.discounts, &w.targets, &w.td, &w.shares[0], &w.shares[1],
                      &w.now.log_prob, &w.next.log_prob}) {
    *per_row = arena.take<T>(rows);
  }
  for (PolicySample<T>* sample : {&w.now, &w.next}) {
    for (T** array : {&sample->mean, &sample->log_std, &sample->action, &sample->slope, &sample->spread,
                      &sample->terms}) {
      *array = arena.take<T>(elements);
    }
  }
  const int64_t values = std::max(args.critics[0].last().stride, args.critics[1].last().stride);
  w.grad_value = arena.take<T>(whole_rows(rows) * values);
  w.grad_input = arena.take<T>(whole_rows(rows) * input);
  w.grad_action = arena.take<T>(rows * width);
  w.grad_policy = arena.take<T>(whole_rows(rows) * args.actor.last().stride);
  w.rows = arena.take<int64_t>(rows);
  w.after = arena.take<int64_t>(rows);
  args.grad_log_alpha = arena.take<T>(1);
  if (args.draws != nullptr) draws_place(*args.draws, args.updates, arena);
  for (Trained<T>* trained : {&args.trained_actor, &args.trained_critics, &args.temperature}) {
    trained_place(*trained, arena);
  }
}

// The temperature's gradient is no layer's.
template <typename T>
void find_all_gradients(const SacUpdateArgs<T>& args) {
  for (int64_t i = 0; i < args.temperature.n; ++i) {
    if (args.temperature.parameters[i].value != args.log_alpha) {
      throw py::value_error("sac_update: the temperature's parameter must be log_alpha");
    }
    args.temperature.parameters[i].grad = args.grad_log_alpha;
  }
  find_gradients(kOp, args.trained_actor, {&args.actor});
  find_gradients(kOp, args.trained_critics, {&args.critics[0], &args.critics[1]});
}

const char* name_of(SacUpdateResult::Failure failure) {
  switch (failure) {
    case SacUpdateResult::temperature_loss:
      return "temperature loss";
    case SacUpdateResult::critic_loss:
      return "critic loss";
    case SacUpdateResult::critic_gradient:
      return "critic gradient";
    case SacUpdateResult::actor_loss:
      return "actor loss";
    case SacUpdateResult::actor_gradient:
      return "actor gradient";
    default:
      return nullptr;
  }
}

template <typename T>
py::tuple sac_update(TensorReader& reader, const TensorView& noise, const py::tuple& networks,
                     const py::tuple& parameters, py::handle log_alpha, py::handle replay,
                     const py::dict& drawn, const py::dict& options) {
  const DType dtype = noise.dtype;
  SacUpdateArgs<T> args{};
  args.noise = noise.as<T>();
  args.updates = noise.shape[0];
  args.batch = noise.shape[2];
  args.width = noise.shape[3];
  if (noise.shape[1] != 2 || args.batch == 0 || args.width == 0) {
    throw py::value_error("sac_update: noise must be [K, 2, B, A] with B and A of at least 1");
  }
  args.replay = read_replay(kOp, replay);
  args.features = args.replay.features;
  if (args.replay.actions == nullptr || args.replay.action_width != args.width) {
    throw py::value_error("sac_update: the replay's actions must be float32 [C, A] with A = " +
                          std::to_string(args.width));
  }
  Networks<T> nets = read_networks<T>(reader, dtype, networks, args);
  const bool prioritized = drawn.contains("tree");
  SharedTree tree{};
  PrioritizedDraws draws{};
  if (prioritized) {
    tree = share_tree(drawn["tree"]);
    draws = read_draws(reader, tree, drawn["uniforms"], drawn["betas"], args.updates, args.batch);
    draws.alpha = py::cast<double>(drawn["alpha"]);
    draws.eps = py::cast<double>(drawn["eps"]);
    draws.max_priority = py::cast<double>(drawn["max_priority"]);
    args.draws = &draws;
  } else {
    args.indices = reader.read(drawn["indices"], "indices", DType::i64, "[K, B]", {args.updates, args.batch})
                       .template as<int64_t>();
    require_rows(kOp, args.indices, args.updates * args.batch, args.replay.size);
  }
  args.n_step = py::cast<int64_t>(options["n_step"]);
  args.gamma = py::cast<double>(options["gamma"]);
  args.tau = py::cast<double>(options["tau"]);
  args.max_norm = py::cast<double>(options["max_norm"]);
  args.target_entropy = py::cast<double>(options["target_entropy"]);
  args.log_alpha = reader.read(log_alpha, "log_alpha", dtype, "[]", {}).template as<T>();
  std::vector<AdamParameter<T>> actor = read_parameters<T>(reader, dtype, py::list(parameters[0]));
  std::vector<AdamParameter<T>> critics =
      read_parameters<T>(reader, dtype, py::list(parameters[1]), py::list(parameters[2]));
  std::vector<AdamParameter<T>> temperature = read_parameters<T>(reader, dtype, py::list(parameters[3]));
  args.trained_actor = trained_of(actor);
  args.trained_critics = trained_of(critics);
  args.temperature = trained_of(temperature);

  const double max_priority = draws.max_priority;
  SacUpdateResult result;
  {
    const TeamScope team(py::cast<int>(options["threads"]));
    py::gil_scoped_release release;
    std::unique_lock<std::mutex> lock;
    if (prioritized) lock = std::unique_lock<std::mutex>(*tree.mutex);
    place_in_thread_memory([&](Arena& arena) { place(args, arena); });
    find_all_gradients(args);
    result = dispatch_simd([&](auto path) { return sac_update_cpu<path>(args); });
  }
  if (result.failure == SacUpdateResult::empty) {
    throw py::value_error("sac_update: nothing to draw: every priority is zero");
  }
  if (result.failure == SacUpdateResult::no_row) {
    throw py::value_error("sac_update: the tree has a priority for a row that the replay has not");
  }
  const char* failed = name_of(result.failure);
  py::list sums;
  for (double sum : result.sums) sums.append(sum);
  return py::make_tuple(failed == nullptr ? py::object(py::none()) : py::str(failed), sums,
                        failed == nullptr ? draws.max_priority : max_priority);
}

// parameters: (actor's, critics', their targets, temperature's). drawn: {"indices"}, or {"tree", "uniforms",
// "betas", "alpha", "eps", "max_priority"}.
// Returns (what was not finite or None, sums of the statistics, max_priority).
py::tuple sac_update_entry(const py::tuple& networks, const py::tuple& parameters, py::handle log_alpha,
                           py::handle replay, const py::dict& drawn, py::handle given_noise,
                           const py::dict& options) {
  TensorReader reader(kOp);
  const TensorView noise = reader.first(given_noise, "noise", {DType::f32, DType::f64}, "[K, 2, B, A]", {4});
  if (!noise.is_cpu()) throw py::value_error("sac_update: the core has no CUDA kernel for it");
  const auto run = noise.dtype == DType::f32 ? &sac_update<float> : &sac_update<double>;
  return run(reader, noise, networks, parameters, log_alpha, replay, drawn, options);
}

}  // namespace

void bind_sac_update(py::module_& m) { m.def("sac_update", &sac_update_entry); }

}  // namespace optix_fast
