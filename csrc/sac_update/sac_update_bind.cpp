#include "sac_update.h"

#include <pybind11/stl.h>

#include <string>

#include "learners/twin_critics_bind.h"

namespace optix_fast {
namespace {

constexpr const char* kOp = "sac_update";

struct SacOptions {
  int64_t n_step = 1, threads = 1;
  double gamma = 0, tau = 0, target_entropy = 0;
  std::optional<double> max_grad_norm;
};

// The networks, from (actor, critic1, critic2, target1, target2), each a list of layers.
template <typename T>
struct Networks {
  std::vector<Layer<T>> layers[5];
};

template <typename T>
Networks<T> read_networks(TensorReader& reader, DType dtype, const py::tuple& described,
                          SacUpdateArgs<T>& args) {
  Networks<T> nets;
  TwinCritics<T>& c = args.critics;
  for (int i = 0; i < 5; ++i) {
    const int64_t in = c.features + (i == 0 ? 0 : c.width);
    const int64_t wanted = i == 0 ? 2 * c.width : 1;
    const int64_t out = read_layers<T>(reader, dtype, py::list(described[i]), in, nets.layers[i]);
    if (nets.layers[i].empty() || out != wanted) {
      throw py::value_error("sac_update: the actor must have 2A = " + std::to_string(2 * c.width) +
                            " outputs and each critic one");
    }
  }
  args.actor = stack_of(nets.layers[0], true);
  for (int i = 0; i < 2; ++i) {
    c.nets[i] = stack_of(nets.layers[1 + i], true);
    c.targets[i] = stack_of(nets.layers[3 + i], true);
  }
  return nets;
}

template <typename T>
void allocate(SacUpdateArgs<T>& args, Arena& arena) {
  const TwinCritics<T>& c = args.critics;
  const int64_t rows = args.draws.batch, elements = padded<T>(rows * c.width);
  stack_place(args.actor, 2 * rows, arena);
  scratch_place(args.scratch, rows, widest(args.actor), arena);
  SacWork<T>& w = args.work;
  w.observations = arena.take<T>(whole_rows(2 * rows) * padded<T>(c.features));
  for (T** per_row : {&w.shares[0], &w.shares[1], &w.now.log_prob, &w.next.log_prob}) {
    *per_row = arena.take<T>(rows);
  }
  for (PolicySample<T>* sample : {&w.now, &w.next}) {
    for (T** array : {&sample->mean, &sample->log_std, &sample->action, &sample->slope, &sample->spread,
                      &sample->terms}) {
      *array = arena.take<T>(elements);
    }
  }
  w.grad_policy = arena.take<T>(whole_rows(rows) * args.actor.last().stride);
  args.grad_log_alpha = arena.take<T>(1);
  allocate_draws(args.draws, arena);
  allocate_twins(args.critics, rows, arena);
  for (Trained<T>* trained : {&args.trained_actor, &args.temperature}) trained_place(*trained, arena);
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
  find_critic_gradients(kOp, args.critics);
}

const NamedTuple* result_type;  // made in bind_sac_update

template <typename T>
py::object sac_update(TensorReader& reader, const TensorView& noise, const py::tuple& networks,
                      const py::tuple& parameters, py::handle log_alpha, py::handle view,
                      py::handle given_draws, const SacOptions& options) {
  const DType dtype = noise.dtype;
  SacUpdateArgs<T> args{};
  args.noise = noise.as<T>();
  args.draws.updates = noise.shape[0];
  args.draws.batch = noise.shape[2];
  args.critics.width = noise.shape[3];
  if (noise.shape[1] != 2 || args.draws.batch == 0 || args.critics.width == 0) {
    throw py::value_error("sac_update: noise must be [K, 2, B, A] with B and A of at least 1");
  }
  args.draws.replay = read_continuous_replay(kOp, view, args.critics.width);
  args.critics.features = args.draws.replay.features;
  Networks<T> nets = read_networks<T>(reader, dtype, networks, args);
  GivenDraws draws(kOp, given_draws);
  draws.read(reader, options.n_step, options.gamma, args.draws);
  args.tau = options.tau;
  args.max_grad_norm = norm_bound(options.max_grad_norm);
  args.target_entropy = options.target_entropy;
  args.log_alpha = reader.read(log_alpha, "log_alpha", dtype, "[]", {}).template as<T>();
  std::vector<TrainedParameter<T>> actor = read_parameters<T>(kOp, reader, dtype, py::list(parameters[0]));
  std::vector<TrainedParameter<T>> critics =
      read_with_targets<T>(kOp, reader, dtype, py::list(parameters[1]), py::list(parameters[2]));
  std::vector<TrainedParameter<T>> temperature =
      read_parameters<T>(kOp, reader, dtype, py::list(parameters[3]));
  args.trained_actor = trained_of(actor);
  args.critics.trained = trained_of(critics);
  args.temperature = trained_of(temperature);

  const SacUpdateResult result = run_learner(
      options.threads, draws.mutex(), [&](Arena& arena) { allocate(args, arena); },
      [&] { find_all_gradients(args); }, [&](auto path) { return sac_update_cpu<path>(args); });
  draws.require_drawn(result.draw_fault);
  const char* const names[] = {nullptr,           "temperature loss", "critic loss",
                               "critic gradient", "actor loss",       "actor gradient"};
  const char* failed = names[result.failure];
  return (*result_type)(failed, std::vector<double>(result.sums, result.sums + kSacStatistics),
                        draws.max_priority(failed == nullptr));
}

// parameters: (actor's, critics', their targets, temperature's).
py::object sac_update_entry(const py::tuple& networks, const py::tuple& parameters, py::handle log_alpha,
                            py::handle replay, py::handle draws, py::handle given_noise,
                            const SacOptions& options) {
  TensorReader reader(kOp);
  const TensorView noise = reader.first(given_noise, "noise", {DType::f32, DType::f64}, "[K, 2, B, A]", {4});
  require_cpu(kOp, noise);
  const auto run = noise.dtype == DType::f32 ? &sac_update<float> : &sac_update<double>;
  return run(reader, noise, networks, parameters, log_alpha, replay, draws, options);
}

}  // namespace

void bind_sac_update(py::module_& m) {
  BoundStruct<SacOptions>(m, "SACOptions", Positional::no)
      .required<&SacOptions::n_step>("n_step")
      .required<&SacOptions::gamma>("gamma")
      .required<&SacOptions::tau>("tau")
      .required<&SacOptions::target_entropy>("target_entropy")
      .optional<&SacOptions::max_grad_norm>("max_grad_norm")
      .optional<&SacOptions::threads>("threads");
  static const NamedTuple result(m, "optix_fast._C.SACResult", {"failed", "sums", "max_priority"});
  result_type = &result;
  m.def("sac_update", &sac_update_entry, py::arg("networks"), py::arg("parameters"), py::arg("log_alpha"),
        py::arg("replay"), py::arg("draws"), py::arg("noise"), py::arg("options"));
}

}  // namespace optix_fast
