#include "ppo_update.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <string>

#include "learners/learner_bind.h"

namespace optix_fast {

template <>
struct NamesOf<PolicyKind> {
  static constexpr auto& names = kPolicyKindNames;
};
template <>
struct NamesOf<ValueClip> {
  static constexpr auto& names = kValueClipNames;
};

namespace {

constexpr const char* kOp = "ppo_update";

struct PpoOptions {
  PolicyKind kind = PolicyKind::categorical;
  std::vector<int64_t> nvec;
  int64_t minibatch_size = 1, threads = 1;
  double clip_ratio = 0, vf_coef = 0, entropy_coef = 0;
  std::optional<double> value_clip, max_grad_norm, target_kl;
  ValueClip value_clip_mode = ValueClip::max;
  bool normalize_advantages = false, joins_last_row = false;
};

// Of R rows; what they are is in ppo_update.h.
struct PpoRows {
  py::object observations, actions, log_probs, values, advantages, returns;
  py::object action_masks = py::none();
};

// The networks, from (trunk, actor, critic), each a list of layers.
template <typename T>
struct Networks {
  std::vector<Layer<T>> trunk, actor, critic;
};

// The gradient of a free log_std is no layer's.
template <typename T>
void find_gradients(const PpoUpdateArgs<T>& args) {
  for (int64_t i = 0; i < args.trained.n; ++i) {
    TrainedParameter<T>& p = args.trained.parameters[i];
    if (p.value == args.log_std) p.grad = args.grad_log_std;
  }
  find_gradients(kOp, args.trained, {&args.trunk, &args.actor, &args.critic});
}

template <typename T>
void allocate(PpoUpdateArgs<T>& args, Arena& arena) {
  const int64_t rows = args.minibatch_size + (args.joins_last_row ? 1 : 0), width = args.loss.actions_width;
  const int64_t outputs = args.loss.kind == PolicyKind::normal ? 2 * width : width;
  for (const Stack<T>* stack : {&args.trunk, &args.actor, &args.critic}) stack_place(*stack, rows, arena);
  int64_t width_of_all = args.features;
  for (const Stack<T>* stack : {&args.trunk, &args.actor, &args.critic}) {
    width_of_all = std::max(width_of_all, widest(*stack));
  }
  for (Scratch<T>& scratch : args.scratch) scratch_place(scratch, rows, width_of_all, arena);
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
  for (T*& part : b.grad_trunk) {
    part = args.trunk.n == 0 ? nullptr : arena.take<T>(whole_rows(rows) * args.trunk.last().stride);
  }
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

const NamedTuple* result_type;  // made in bind_ppo_update

template <typename T>
py::object ppo_update(TensorReader& reader, const TensorView& observations, const py::tuple& networks,
                      const py::list& parameters, const PpoRows& rows, py::handle permutations,
                      const PpoOptions& options, py::handle log_std) {
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

  const auto per_row = [&](py::handle column, const char* name) {
    return reader.read(column, name, dtype, "[R]", {args.rows}).template as<T>();
  };
  args.old_log_probs = per_row(rows.log_probs, "log_probs");
  args.values = per_row(rows.values, "values");
  args.advantages = per_row(rows.advantages, "advantages");
  args.returns = per_row(rows.returns, "returns");
  const std::vector<int64_t>& nvec = options.nvec;
  const bool normal = options.kind == PolicyKind::normal;
  if (options.kind == PolicyKind::hybrid || options.kind == PolicyKind::greedy ||
      nvec.empty() == (options.kind == PolicyKind::multi_discrete)) {
    throw py::value_error("ppo_update: kind must be categorical, normal or, with nvec, multi_discrete, got " +
                          std::string(kPolicyKindNames[static_cast<int>(options.kind)]));
  }
  args.loss.kind = options.kind;
  args.loss.nvec = nvec.data();
  args.loss.n_discrete = static_cast<int64_t>(nvec.size());
  args.components = std::max<int64_t>(args.loss.n_discrete, 1);
  const int64_t width = normal && log_std.is_none() ? outputs / 2 : outputs;
  args.loss.actions_width = width;
  if (normal) {
    args.continuous_actions =
        reader.read(rows.actions, "actions", dtype, "[R, A]", {args.rows, width}).template as<T>();
    if (!log_std.is_none()) {
      args.log_std = reader.read(log_std, "log_std", dtype, "[A]", {width}).template as<T>();
    }
  } else {
    int64_t total = nvec.empty() ? width : 0;
    for (int64_t n : nvec) total += n;
    if (total != width) throw py::value_error("ppo_update: nvec must add up to the actor's outputs");
    const TensorView actions =
        nvec.empty()
            ? reader.read(rows.actions, "actions", DType::i64, "[R]", {args.rows})
            : reader.read(rows.actions, "actions", DType::i64, "[R, C]", {args.rows, args.components});
    args.discrete_actions = actions.template as<int64_t>();
    if (!rows.action_masks.is_none()) {
      args.action_mask =
          reader.read(rows.action_masks, "action_masks", DType::b8, "[R, K]", {args.rows, width})
              .template as<uint8_t>();
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
  args.minibatch_size = std::min(options.minibatch_size, args.rows);
  if (args.minibatch_size < 1) throw py::value_error("ppo_update: minibatch_size must be positive");
  args.joins_last_row = options.joins_last_row;
  args.max_grad_norm = norm_bound(options.max_grad_norm);
  args.target_kl = bound_or_infinity(options.target_kl);
  const std::vector<double> entropy_coef(args.components, options.entropy_coef);
  args.loss.clip_ratio = options.clip_ratio;
  args.loss.value_clip_mode = options.value_clip ? options.value_clip_mode : ValueClip::none;
  args.loss.value_clip = options.value_clip.value_or(0.0);
  args.loss.vf_coef = options.vf_coef;
  args.loss.entropy_coef = entropy_coef.data();
  args.loss.normalize_advantages = options.normalize_advantages;

  std::vector<TrainedParameter<T>> adam = read_parameters<T>(kOp, reader, dtype, parameters);
  args.trained = trained_of(adam);

  const PpoUpdateResult result = run_learner(
      options.threads, nullptr, [&](Arena& arena) { allocate(args, arena); }, [&] { find_gradients(args); },
      [&](auto path) { return ppo_update_cpu<path>(args); });
  if (result.failure == PpoUpdateResult::data) throw_fault(result.fault);
  const char* failed = result.failure == PpoUpdateResult::loss       ? "loss"
                       : result.failure == PpoUpdateResult::gradient ? "gradient"
                                                                     : nullptr;
  return (*result_type)(failed, result.updates,
                        std::vector<double>(result.sums, result.sums + kPpoStatistics));
}

py::object ppo_update_entry(const py::tuple& networks, const py::list& parameters, const PpoRows& rows,
                            py::handle permutations, const PpoOptions& options, py::handle log_std) {
  TensorReader reader(kOp);
  const TensorView first =
      reader.first(rows.observations, "observations", {DType::f32, DType::f64}, "[R, D]", {2});
  require_cpu(kOp, first);
  const auto run = first.dtype == DType::f32 ? &ppo_update<float> : &ppo_update<double>;
  return run(reader, first, networks, parameters, rows, permutations, options, log_std);
}

}  // namespace

void bind_ppo_update(py::module_& m) {
  BoundStruct<PpoRows>(m, "PPORows", Positional::yes)
      .required<&PpoRows::observations>("observations")
      .required<&PpoRows::actions>("actions")
      .required<&PpoRows::log_probs>("log_probs")
      .required<&PpoRows::values>("values")
      .required<&PpoRows::advantages>("advantages")
      .required<&PpoRows::returns>("returns")
      .optional<&PpoRows::action_masks>("action_masks");
  BoundStruct<PpoOptions>(m, "PPOOptions", Positional::no)
      .required<&PpoOptions::kind>("kind")
      .optional<&PpoOptions::nvec>("nvec")
      .required<&PpoOptions::minibatch_size>("minibatch_size")
      .required<&PpoOptions::clip_ratio>("clip_ratio")
      .optional<&PpoOptions::value_clip>("value_clip")
      .optional<&PpoOptions::value_clip_mode>("value_clip_mode")
      .required<&PpoOptions::vf_coef>("vf_coef")
      .required<&PpoOptions::entropy_coef>("entropy_coef")
      .required<&PpoOptions::normalize_advantages>("normalize_advantages")
      .optional<&PpoOptions::max_grad_norm>("max_grad_norm")
      .optional<&PpoOptions::target_kl>("target_kl")
      .optional<&PpoOptions::joins_last_row>("joins_last_row")
      .optional<&PpoOptions::threads>("threads");
  static const NamedTuple result(m, "optix_fast._C.PPOResult", {"failed", "updates", "sums"});
  result_type = &result;
  m.def("ppo_update", &ppo_update_entry, py::arg("networks"), py::arg("parameters"), py::arg("rows"),
        py::arg("permutations"), py::arg("options"), py::arg("log_std") = py::none());
}

}  // namespace optix_fast
