#include "ppo_update.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <string>

#include "mlp/mlp_bind.h"
#include "threads.h"

namespace optix_fast {
namespace {

// The networks, from (trunk, actor, critic), each a list of layers.
template <typename T>
struct Networks {
  std::vector<Layer<T>> trunk, actor, critic;
};

// The gradient of a free log_std is no layer's.
template <typename T>
void find_gradients(const PpoUpdateArgs<T>& args) {
  for (int64_t i = 0; i < args.trained.n; ++i) {
    AdamParameter<T>& p = args.trained.parameters[i];
    if (p.value == args.log_std) p.grad = args.grad_log_std;
  }
  find_gradients("ppo_update", args.trained, {&args.trunk, &args.actor, &args.critic});
}

template <typename T>
void place(PpoUpdateArgs<T>& args, Arena& arena) {
  const int64_t rows = args.minibatch_size, width = args.loss.actions_width;
  const int64_t outputs = args.loss.kind == PolicyKind::normal ? 2 * width : width;
  for (const Stack<T>* stack : {&args.trunk, &args.actor, &args.critic}) stack_place(*stack, rows, arena);
  int64_t width_of_all = args.features;
  for (const Stack<T>* stack : {&args.trunk, &args.actor, &args.critic}) {
    width_of_all = std::max(width_of_all, widest(*stack));
  }
  scratch_place(args.scratch, rows, width_of_all, arena);
  Minibatch<T>& b = args.batch;
  b.observations = arena.take<T>(whole_rows(rows) * padded<T>(args.features));
  b.discrete_actions = arena.take<int64_t>(rows * args.components);
  b.continuous_actions = arena.take<T>(rows * width);
  b.action_mask = arena.take<uint8_t>(rows * width);
  for (T** per_row :
       {&b.old_log_probs, &b.advantages, &b.old_values, &b.returns, &b.values, &b.grad_values}) {
    *per_row = arena.take<T>(rows);
  }
  b.params = arena.take<T>(rows * outputs);
  b.grad_params = arena.take<T>(rows * outputs);
  b.grad_actor = arena.take<T>(whole_rows(rows) * args.actor.last().stride);
  b.grad_critic = arena.take<T>(whole_rows(rows) * args.critic.last().stride);
  b.grad_trunk = args.trunk.n == 0 ? nullptr : arena.take<T>(whole_rows(rows) * args.trunk.last().stride);
  const size_t scratch_bytes = ppo_loss_scratch_bytes(width, args.components);
  b.loss_scratch = reinterpret_cast<T*>(arena.take<unsigned char>(static_cast<int64_t>(scratch_bytes)));
  args.stats = arena.take<float>(kPpoStatistics + args.components);
  args.grad_log_std = arena.take<T>(width);
  trained_place(args.trained, arena);
}

[[noreturn]] void throw_fault(const PpoLossFault& fault) {
  const char* what = fault.kind == PpoLossFault::action_out_of_range
                         ? "the action taken is none of the actor's"
                     : fault.kind == PpoLossFault::action_masked ? "action_mask forbids the action taken"
                                                                 : "action_mask forbids every action";
  throw py::value_error(std::string("ppo_update: ") + what + " at row " + std::to_string(fault.row));
}

template <typename T>
py::tuple ppo_update(TensorReader& reader, const TensorView& observations, const py::tuple& networks,
                     const py::list& parameters, const py::dict& rows, py::handle permutations,
                     const py::dict& options) {
  const DType dtype = observations.dtype;
  PpoUpdateArgs<T> args{};
  args.rows = observations.shape[0];
  args.features = observations.shape[1];
  args.observations = observations.as<T>();
  if (args.rows == 0) throw py::value_error("ppo_update: observations must hold at least one row");

  Networks<T> nets;
  int64_t features = read_layers<T>(reader, dtype, networks[0], args.features, nets.trunk);
  const int64_t outputs = read_layers<T>(reader, dtype, networks[1], features, nets.actor);
  const int64_t values = read_layers<T>(reader, dtype, networks[2], features, nets.critic);
  if (nets.actor.empty() || nets.critic.empty() || values != 1) {
    throw py::value_error(
        "ppo_update: actor and critic need a layer of their own, the critic's with one output");
  }
  args.trunk = stack_of(nets.trunk, false);
  args.actor = stack_of(nets.actor, true);
  args.critic = stack_of(nets.critic, true);

  const auto per_row = [&](const char* name) {
    return reader.read(rows[name], name, dtype, "[R]", {args.rows}).template as<T>();
  };
  args.old_log_probs = per_row("log_probs");
  args.values = per_row("values");
  args.advantages = per_row("advantages");
  args.returns = per_row("returns");
  const bool normal = py::cast<bool>(options["normal"]);
  const auto nvec = py::cast<std::vector<int64_t>>(options["nvec"]);
  args.loss.kind = normal         ? PolicyKind::normal
                   : nvec.empty() ? PolicyKind::categorical
                                  : PolicyKind::multi_discrete;
  args.loss.nvec = nvec.data();
  args.loss.n_discrete = static_cast<int64_t>(nvec.size());
  args.components = std::max<int64_t>(args.loss.n_discrete, 1);
  const py::object log_std = options["log_std"], mask = rows["action_masks"];
  const int64_t width = normal && log_std.is_none() ? outputs / 2 : outputs;
  args.loss.actions_width = width;
  if (normal) {
    args.continuous_actions =
        reader.read(rows["actions"], "actions", dtype, "[R, A]", {args.rows, width}).template as<T>();
    if (!log_std.is_none()) {
      args.log_std = reader.read(log_std, "log_std", dtype, "[A]", {width}).template as<T>();
    }
  } else {
    int64_t total = nvec.empty() ? width : 0;
    for (int64_t n : nvec) total += n;
    if (total != width) throw py::value_error("ppo_update: nvec must add up to the actor's outputs");
    const TensorView actions =
        nvec.empty()
            ? reader.read(rows["actions"], "actions", DType::i64, "[R]", {args.rows})
            : reader.read(rows["actions"], "actions", DType::i64, "[R, C]", {args.rows, args.components});
    args.discrete_actions = actions.template as<int64_t>();
    if (!mask.is_none()) {
      args.action_mask =
          reader.read(mask, "action_masks", DType::b8, "[R, K]", {args.rows, width}).template as<uint8_t>();
    }
  }

  args.epochs = py::cast<int64_t>(permutations.attr("shape")[py::int_(0)]);
  args.permutations =
      reader.read(permutations, "permutations", DType::i64, "[E, R]", {args.epochs, args.rows})
          .template as<int64_t>();
  for (int64_t i = 0; i < args.epochs * args.rows; ++i) {
    if (args.permutations[i] < 0 || args.permutations[i] >= args.rows) {
      throw py::value_error("ppo_update: permutations must hold row numbers in [0, R)");
    }
  }
  args.minibatch_size = std::min(py::cast<int64_t>(options["minibatch_size"]), args.rows);
  args.max_norm = py::cast<double>(options["max_norm"]);
  args.kl_limit = py::cast<double>(options["kl_limit"]);
  const std::vector<double> entropy_coef(args.components, py::cast<double>(options["entropy_coef"]));
  args.loss.clip_ratio = py::cast<double>(options["clip_ratio"]);
  args.loss.value_clip_mode = static_cast<ValueClip>(py::cast<int>(options["value_clip_mode"]));
  args.loss.value_clip = py::cast<double>(options["value_clip"]);
  args.loss.vf_coef = py::cast<double>(options["vf_coef"]);
  args.loss.entropy_coef = entropy_coef.data();
  args.loss.normalize_advantages = py::cast<bool>(options["normalize_advantages"]);

  std::vector<AdamParameter<T>> adam = read_parameters<T>(reader, dtype, parameters);
  args.trained = trained_of(adam);

  PpoUpdateResult result;
  {
    const TeamScope team(py::cast<int>(options["threads"]));
    py::gil_scoped_release release;
    place_in_thread_memory([&](Arena& arena) { place(args, arena); });
    find_gradients(args);
    result = dispatch_simd([&](auto path) { return ppo_update_cpu<path>(args); });
  }
  if (result.failure == PpoUpdateResult::data) throw_fault(result.fault);
  const char* failed = result.failure == PpoUpdateResult::loss       ? "loss"
                       : result.failure == PpoUpdateResult::gradient ? "gradient"
                                                                     : nullptr;
  py::list sums;
  for (double sum : result.sums) sums.append(sum);
  return py::make_tuple(failed == nullptr ? py::object(py::none()) : py::str(failed), result.updates, sums);
}

py::tuple ppo_update_entry(const py::tuple& networks, const py::list& parameters, const py::dict& rows,
                           py::handle permutations, const py::dict& options) {
  TensorReader reader("ppo_update");
  const TensorView first =
      reader.first(rows["observations"], "observations", {DType::f32, DType::f64}, "[R, D]", {2});
  if (!first.is_cpu()) throw py::value_error("ppo_update: the core has no CUDA kernel for it");
  const auto run = first.dtype == DType::f32 ? &ppo_update<float> : &ppo_update<double>;
  return run(reader, first, networks, parameters, rows, permutations, options);
}

}  // namespace

void bind_ppo_update(py::module_& m) { m.def("ppo_update", &ppo_update_entry); }

}  // namespace optix_fast
