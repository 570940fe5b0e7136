// For the bindings of the soft actor-critics.
#pragma once

#include <pybind11/stl.h>

#include <string>

#include "critics_bind.h"
#include "squashed_policy.h"

namespace optix_fast {

struct SoftOptions {
  int64_t n_step = 1, threads = 1;
  double gamma = 0, tau = 0, target_entropy = 0;
  std::optional<double> max_grad_norm;
};

// With what all of them have.
template <typename Options>
BoundStruct<Options> bind_soft_options(py::module_& m, const char* name) {
  BoundStruct<Options> bound(m, name, Positional::no);
  bound.template required<&Options::n_step>("n_step")
      .template required<&Options::gamma>("gamma")
      .template required<&Options::target_entropy>("target_entropy")
      .template optional<&Options::max_grad_norm>("max_grad_norm")
      .template optional<&Options::threads>("threads");
  return bound;
}

// One type for all of them, made by whoever is bound first.
inline const NamedTuple& soft_result_type(py::module_& m) {
  static const NamedTuple result(m, "optix_fast._C.SoftResult",
                                 {"failed", "sums", "actor_updates", "max_priority"});
  return result;
}

template <typename T>
void allocate_soft(SoftArgs<T>& a, bool joint, Arena& arena) {
  const Critics<T>& c = a.critics;
  const int64_t rows = a.draws.batch, elements = padded<T>(rows * c.width);
  stack_place(a.actor, 2 * rows, arena);
  scratch_place(a.scratch, rows, widest(a.actor), arena);
  a.observations = arena.take<T>(whole_rows(2 * rows) * padded<T>(c.features));
  for (PolicySample<T>* sample : {&a.now, &a.next}) {
    for (T** array : {&sample->mean, &sample->log_std, &sample->action, &sample->slope, &sample->spread,
                      &sample->terms}) {
      *array = arena.take<T>(elements);
    }
    sample->log_prob = arena.take<T>(rows);
  }
  a.grad_policy = arena.take<T>(whole_rows(rows) * a.actor.last().stride);
  a.grad_log_alpha = arena.take<T>(1);
  allocate_draws(a.draws, arena);
  allocate_critics(a.critics, rows, joint, arena);
  for (Trained<T>* trained : {&a.trained_actor, &a.temperature}) trained_place(*trained, arena);
}

// The temperature's gradient is no layer's.
template <typename T>
void find_soft_gradients(const char* op, const SoftArgs<T>& a) {
  for (int64_t i = 0; i < a.temperature.n; ++i) {
    if (a.temperature.parameters[i].value != a.log_alpha) {
      throw py::value_error(std::string(op) + ": the temperature's parameter must be log_alpha");
    }
    a.temperature.parameters[i].grad = a.grad_log_alpha;
  }
  find_gradients(op, a.trained_actor, {&a.actor});
  find_critic_gradients(op, a.critics);
}

// The arguments of an update.
struct SoftCall {
  const char* op;
  const NamedTuple& result_type;
  // (actor, critics, targets): a list of layers, and lists of such; there may be no targets
  py::tuple networks;
  py::tuple parameters;  // (actor's, critics', their targets', temperature's)
  py::handle log_alpha, replay, draws;
};

// set(args) adds what else an algorithm's arguments hold, place(args, arena) takes its own work memory,
// run(path, args) is its kernel.
template <typename T, typename Args, typename Set, typename Place, typename Run>
py::object run_soft_update(TensorReader& reader, const SoftCall& call, const TensorView& noise,
                           const SoftOptions& options, const Set& set, const Place& place, const Run& run) {
  const DType dtype = noise.dtype;
  const char* op = call.op;
  Args a{};
  Critics<T>& c = a.critics;
  a.noise = noise.as<T>();
  a.draws.updates = noise.shape[0];
  a.draws.batch = noise.shape[2];
  c.width = noise.shape[3];
  if (noise.shape[1] != 2 || a.draws.batch == 0 || c.width == 0) {
    throw py::value_error(std::string(op) + ": noise must be [K, 2, B, A] with B and A of at least 1");
  }
  a.draws.replay = read_continuous_replay(op, call.replay, c.width);
  c.features = a.draws.replay.features;
  set(a);
  Networks<T> nets(op, reader, dtype);
  a.actor = nets.read(call.networks[0], c.features, 2 * c.width, "the actor");
  const py::list targets = call.networks[2];
  nets.read_critics(call.networks[1], targets, c);
  GivenDraws draws(op, call.draws);
  draws.read(reader, options.n_step, options.gamma, a.draws);
  a.tau = options.tau;
  a.max_grad_norm = norm_bound(options.max_grad_norm);
  a.target_entropy = options.target_entropy;
  a.log_alpha = reader.read(call.log_alpha, "log_alpha", dtype, "[]", {}).template as<T>();
  std::vector<TrainedParameter<T>> actor = read_parameters<T>(op, reader, dtype, call.parameters[0]);
  std::vector<TrainedParameter<T>> critics =
      targets.empty() ? read_parameters<T>(op, reader, dtype, call.parameters[1])
                      : read_with_targets<T>(op, reader, dtype, call.parameters[1], call.parameters[2]);
  std::vector<TrainedParameter<T>> temperature = read_parameters<T>(op, reader, dtype, call.parameters[3]);
  a.trained_actor = trained_of(actor);
  c.trained = trained_of(critics);
  a.temperature = trained_of(temperature);

  const SoftResult result = run_learner(
      options.threads, draws.mutex(),
      [&](Arena& arena) {
        allocate_soft(a, targets.empty(), arena);
        place(a, arena);
      },
      [&] { find_soft_gradients(op, a); }, [&](auto path) { return run(path, a); });
  draws.require_drawn(result.draw_fault);
  const char* const names[] = {nullptr,           "temperature loss", "critic loss",
                               "critic gradient", "actor loss",       "actor gradient"};
  const char* failed = names[result.failure];
  return call.result_type(failed, std::vector<double>(result.sums, result.sums + kSoftStatistics),
                          result.actor_updates, draws.max_priority(failed == nullptr));
}

// Binds an update: Args<T> are its arguments; set(args, options), and the rest as in run_soft_update.
template <template <typename> class Args, typename Options, typename Set, typename Place, typename Run>
void bind_soft_update(py::module_& m, const char* op, const Set& set, const Place& place, const Run& run) {
  const auto update = [=, &result = soft_result_type(m)](const py::tuple& networks,
                                                         const py::tuple& parameters, py::handle log_alpha,
                                                         py::handle replay, py::handle draws,
                                                         py::handle given_noise, const Options& options) {
    TensorReader reader(op);
    const TensorView noise =
        reader.first(given_noise, "noise", {DType::f32, DType::f64}, "[K, 2, B, A]", {4});
    require_cpu(op, noise);
    const SoftCall call{op, result, networks, parameters, log_alpha, replay, draws};
    const auto more = [&](auto& args) { set(args, options); };
    return noise.dtype == DType::f32
               ? run_soft_update<float, Args<float>>(reader, call, noise, options, more, place, run)
               : run_soft_update<double, Args<double>>(reader, call, noise, options, more, place, run);
  };
  m.def(op, update, py::arg("networks"), py::arg("parameters"), py::arg("log_alpha"), py::arg("replay"),
        py::arg("draws"), py::arg("noise"), py::arg("options"));
}

}  // namespace optix_fast
