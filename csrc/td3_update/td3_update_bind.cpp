#include "td3_update.h"

#include <pybind11/stl.h>

#include <string>

#include "learners/critics_bind.h"

namespace optix_fast {
namespace {

constexpr const char* kOp = "td3_update";

struct Td3Options {
  int64_t n_step = 1, policy_delay = 1, updates_before = 0, threads = 1;
  double gamma = 0, tau = 0, target_noise = 0, target_noise_clip = 0;
  std::optional<double> max_grad_norm;
};

template <typename T>
void allocate(Td3UpdateArgs<T>& args, Arena& arena) {
  const Critics<T>& c = args.critics;
  const int64_t rows = args.draws.batch, elements = padded<T>(rows * c.width);
  for (const Stack<T>* net : {&args.actor, &args.target_actor}) stack_place(*net, rows, arena);
  scratch_place(args.scratch, rows, widest(args.actor), arena);
  Td3Work<T>& w = args.work;
  w.observations = arena.take<T>((rows + whole_rows(rows)) * padded<T>(c.features));
  for (T** array : {&w.action, &w.slope}) *array = arena.take<T>(elements);
  w.grad_policy = arena.take<T>(whole_rows(rows) * args.actor.last().stride);
  allocate_draws(args.draws, arena);
  allocate_critics(args.critics, rows, false, arena);
  trained_place(args.trained_actor, arena);
}

const NamedTuple* result_type;  // made in bind_td3_update

template <typename T>
py::object td3_update(TensorReader& reader, const TensorView& noise, const py::tuple& networks,
                      const py::tuple& parameters, py::handle view, py::handle given_draws,
                      const Td3Options& options) {
  const DType dtype = noise.dtype;
  Td3UpdateArgs<T> args{};
  args.noise = noise.as<T>();
  args.draws.updates = noise.shape[0];
  args.draws.batch = noise.shape[1];
  args.critics.width = noise.shape[2];
  if (args.draws.batch == 0 || args.critics.width == 0) {
    throw py::value_error("td3_update: noise must be [K, B, A] with B and A of at least 1");
  }
  args.draws.replay = read_continuous_replay(kOp, view, args.critics.width);
  args.critics.features = args.draws.replay.features;
  Networks<T> nets(kOp, reader, dtype);
  args.actor = nets.read(networks[0], args.critics.features, args.critics.width, "the actor");
  args.target_actor = nets.read(networks[1], args.critics.features, args.critics.width, "the target actor");
  nets.read_critics(networks[2], networks[3], args.critics);
  GivenDraws draws(kOp, given_draws);
  draws.read(reader, options.n_step, options.gamma, args.draws);
  args.tau = options.tau;
  args.target_noise = options.target_noise;
  args.target_noise_clip = options.target_noise_clip;
  args.max_grad_norm = norm_bound(options.max_grad_norm);
  args.policy_delay = options.policy_delay;
  args.updates_before = options.updates_before;
  if (args.policy_delay < 1) throw py::value_error("td3_update: policy_delay must be positive");
  if (parameters.size() != 4) {
    throw py::value_error(
        "td3_update: parameters must be the actor's, their targets, the critics', their targets");
  }
  std::vector<TrainedParameter<T>> actor =
      read_with_targets<T>(kOp, reader, dtype, py::list(parameters[0]), py::list(parameters[1]));
  std::vector<TrainedParameter<T>> critics =
      read_with_targets<T>(kOp, reader, dtype, py::list(parameters[2]), py::list(parameters[3]));
  args.trained_actor = trained_of(actor);
  args.critics.trained = trained_of(critics);

  const Td3UpdateResult result = run_learner(
      options.threads, draws.mutex(), [&](Arena& arena) { allocate(args, arena); },
      [&] {
        find_gradients(kOp, args.trained_actor, {&args.actor});
        find_critic_gradients(kOp, args.critics);
      },
      [&](auto path) { return td3_update_cpu<path>(args); });
  draws.require_drawn(result.draw_fault);
  const char* const names[] = {nullptr, "critic loss", "critic gradient", "actor loss", "actor gradient"};
  const char* failed = names[result.failure];
  return (*result_type)(failed, std::vector<double>(result.sums, result.sums + kTd3Statistics),
                        result.actor_updates, draws.max_priority(failed == nullptr));
}

py::object td3_update_entry(const py::tuple& networks, const py::tuple& parameters, py::handle replay,
                            py::handle draws, py::handle given_noise, const Td3Options& options) {
  TensorReader reader(kOp);
  const TensorView noise = reader.first(given_noise, "noise", {DType::f32, DType::f64}, "[K, B, A]", {3});
  require_cpu(kOp, noise);
  const auto run = noise.dtype == DType::f32 ? &td3_update<float> : &td3_update<double>;
  return run(reader, noise, networks, parameters, replay, draws, options);
}

}  // namespace

void bind_td3_update(py::module_& m) {
  BoundStruct<Td3Options>(m, "TD3Options", Positional::no)
      .required<&Td3Options::n_step>("n_step")
      .required<&Td3Options::gamma>("gamma")
      .required<&Td3Options::tau>("tau")
      .required<&Td3Options::policy_delay>("policy_delay")
      .required<&Td3Options::target_noise>("target_noise")
      .required<&Td3Options::target_noise_clip>("target_noise_clip")
      .optional<&Td3Options::max_grad_norm>("max_grad_norm")
      .optional<&Td3Options::updates_before>("updates_before")
      .optional<&Td3Options::threads>("threads");
  static const NamedTuple result(m, "optix_fast._C.TD3Result",
                                 {"failed", "sums", "actor_updates", "max_priority"});
  result_type = &result;
  m.def("td3_update", &td3_update_entry, py::arg("networks"), py::arg("parameters"), py::arg("replay"),
        py::arg("draws"), py::arg("noise"), py::arg("options"));
}

}  // namespace optix_fast
