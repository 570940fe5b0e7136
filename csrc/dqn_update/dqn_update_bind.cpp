#include "dqn_update.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <string>

#include "learners/draws_bind.h"

namespace optix_fast {

template <>
struct NamesOf<TdLoss> {
  static constexpr auto& names = kTdLossNames;
};

namespace {

constexpr const char* kOp = "dqn_update";

struct DqnOptions {
  int64_t n_step = 1, target_update_freq = 1, updates_before = 0, threads = 1;
  double gamma = 0;
  bool double_q = false;
  TdLoss loss = TdLoss::mse;
  std::optional<double> max_grad_norm, tau;
};

template <typename T>
void allocate(DqnUpdateArgs<T>& args, Arena& arena) {
  const ReplaySource& replay = args.draws.replay;
  const int64_t rows = args.draws.batch, stride = padded<T>(replay.features);
  for (const Stack<T>* stack : {&args.online, &args.target}) stack_place(*stack, rows, arena);
  scratch_place(args.scratch, rows, std::max(replay.features, widest(args.online)), arena);
  for (T** matrix : {&args.observations, &args.next_observations}) {
    *matrix = arena.take<T>(whole_rows(rows) * stride);
  }
  for (int64_t** column : {&args.actions, &args.best}) *column = arena.take<int64_t>(rows);
  args.td = arena.take<T>(rows);
  if (replay.masks.bytes > 0) args.next_masks = arena.take<uint8_t>(rows * replay.masks.bytes);
  args.grad_output = arena.take<T>(whole_rows(rows) * args.online.last().stride);
  allocate_draws(args.draws, arena);
  trained_place(args.trained, arena);
}

const NamedTuple* result_type;  // made in bind_dqn_update

template <typename T>
py::object dqn_update(TensorReader& reader, DType dtype, const py::tuple& networks,
                      const py::list& parameters, const py::list& targets, py::handle view,
                      py::handle given_draws, const DqnOptions& options) {
  DqnUpdateArgs<T> args{};
  const ReplaySource replay = read_replay(kOp, view);
  args.draws.replay = replay;
  if (replay.discrete_actions == nullptr) {
    throw py::value_error("dqn_update: actions must be int64 [C], one of the network's outputs each");
  }
  std::vector<Layer<T>> layers[2];
  int64_t outputs[2];
  for (int i = 0; i < 2; ++i) {
    outputs[i] = read_layers<T>(reader, dtype, networks[i], replay.features, layers[i]);
  }
  if (layers[0].empty() || layers[1].empty() || outputs[0] != outputs[1]) {
    throw py::value_error("dqn_update: network and target network must have the same outputs");
  }
  if (replay.masks.bytes > 0 && replay.masks.bytes != outputs[0]) {
    throw py::value_error("dqn_update: action_masks must have one entry for each of the network's " +
                          std::to_string(outputs[0]) + " actions, got " + std::to_string(replay.masks.bytes));
  }
  args.online = stack_of(layers[0], true);
  args.target = stack_of(layers[1], true);
  std::vector<TrainedParameter<T>> adam = read_with_targets<T>(kOp, reader, dtype, parameters, targets);
  args.trained = trained_of(adam);

  GivenDraws draws(kOp, given_draws);
  draws.read_sizes(args.draws);
  draws.read(reader, options.n_step, options.gamma, args.draws);
  args.double_q = options.double_q;
  args.loss = options.loss;
  args.max_grad_norm = norm_bound(options.max_grad_norm);
  args.tau = options.tau.value_or(0.0);
  args.target_update_freq = options.target_update_freq;
  args.updates_before = options.updates_before;
  if (args.target_update_freq < 1) throw py::value_error("dqn_update: target_update_freq must be positive");

  const DqnUpdateResult result = run_learner(
      options.threads, draws.mutex(), [&](Arena& arena) { allocate(args, arena); },
      [&] { find_gradients(kOp, args.trained, {&args.online}); },
      [&](auto path) { return dqn_update_cpu<path>(args); });
  draws.require_drawn(result.draw_fault);
  if (result.failure == DqnUpdateResult::action) {
    throw py::value_error("dqn_update: the action is none of the network's at row " +
                          std::to_string(result.row) + " of the replay");
  }
  const char* const names[] = {nullptr, "target", "loss", "gradient"};
  const char* failed = names[result.failure];
  return (*result_type)(failed, result.updates, result.copies, result.loss_sum, result.td_sum,
                        result.value_sum, draws.max_priority(failed == nullptr));
}

py::object dqn_update_entry(const py::tuple& networks, const py::list& parameters, const py::list& targets,
                            py::handle replay, py::handle draws, const DqnOptions& options) {
  if (parameters.empty()) throw py::value_error("dqn_update: parameters must not be empty");
  TensorReader reader(kOp);
  const auto entry = py::cast<py::tuple>(parameters[0]);
  const TensorView first = reader.first(entry[0], "parameter", {DType::f32, DType::f64}, "", {1, 2});
  require_cpu(kOp, first);
  const auto run = first.dtype == DType::f32 ? &dqn_update<float> : &dqn_update<double>;
  return run(reader, first.dtype, networks, parameters, targets, replay, draws, options);
}

}  // namespace

void bind_dqn_update(py::module_& m) {
  BoundStruct<DqnOptions>(m, "DQNOptions", Positional::no)
      .required<&DqnOptions::n_step>("n_step")
      .required<&DqnOptions::gamma>("gamma")
      .required<&DqnOptions::double_q>("double_q")
      .required<&DqnOptions::loss>("loss")
      .optional<&DqnOptions::max_grad_norm>("max_grad_norm")
      .optional<&DqnOptions::tau>("tau")
      .required<&DqnOptions::target_update_freq>("target_update_freq")
      .optional<&DqnOptions::updates_before>("updates_before")
      .optional<&DqnOptions::threads>("threads");
  static const NamedTuple result(
      m, "optix_fast._C.DQNResult",
      {"failed", "updates", "copies", "loss", "td_error", "q_value", "max_priority"});
  result_type = &result;
  m.def("dqn_update", &dqn_update_entry, py::arg("networks"), py::arg("parameters"), py::arg("targets"),
        py::arg("replay"), py::arg("draws"), py::arg("options"));
}

}  // namespace optix_fast
