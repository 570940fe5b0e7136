#include "ppo_loss.h"

#include <memory>
#include <string>
#include <vector>

#include "bound_struct.h"
#include "fast_call.h"
#include "tensor.h"

namespace optix_fast {
namespace {

constexpr const char* kOp = "ppo_loss";

// Small problems need no allocation: a component and 32 columns of scratch fit here.
constexpr size_t kStackScratch = ppo_loss_scratch_bytes(32);

// The positions of the arguments of _C.ppo_loss.
enum : Py_ssize_t {
  kKind,
  kNvec,
  kParams,
  kActions,
  kOldLogProbs,
  kAdvantages,
  kValues,
  kReturns,
  kOldValues,
  kActionMask,
  kClipRatio,
  kValueClipMode,
  kValueClip,
  kVfCoef,
  kEntropyCoef,
  kEntropyFloor,
  kEntropyFloorCoef,
  kNormalizeAdvantages,
  kLoss,
  kStats,
  kWantGradients,
  kArguments
};

template <typename T>
[[noreturn]] void throw_fault(const PpoLossFault& fault, const PpoLossArgs<T>& args) {
  const bool one = args.kind == PolicyKind::categorical;
  const std::string at =
      " at row " + std::to_string(fault.row) + (one ? "" : ", component " + std::to_string(fault.component));
  std::string action = std::to_string(fault.action);  // 3.000000 of a whole number
  if (action.size() > 7 && action.compare(action.size() - 7, 7, ".000000") == 0)
    action.resize(action.size() - 7);
  switch (fault.kind) {
    case PpoLossFault::action_out_of_range: {
      const int64_t n = one ? args.actions_width : args.nvec[fault.component];
      const char* whole = args.kind == PolicyKind::hybrid ? "whole numbers " : "";
      throw py::value_error(std::string("ppo_loss: actions must be ") + whole + "in [0, K) = [0, " +
                            std::to_string(n) + "), got " + action + at);
    }
    case PpoLossFault::action_masked:
      throw py::value_error("ppo_loss: action_mask forbids the action taken, " + action + at);
    default:
      throw py::value_error("ppo_loss: action_mask forbids every action" + at);
  }
}

// Kind and sizes, from the distribution and the width of params.
template <typename T>
void read_sizes(PpoLossArgs<T>& args, PolicyKind kind, const std::vector<int64_t>& nvec,
                const TensorView& params) {
  const int64_t width = params.shape[1];
  const std::string got = ", got [" + std::to_string(params.shape[0]) + ", " + std::to_string(width) + "]";
  args.kind = kind;
  args.batch = params.shape[0];
  if (args.batch == 0 || width == 0) throw py::value_error("ppo_loss: params must not be empty");
  args.nvec = nvec.data();
  args.n_discrete = static_cast<int64_t>(nvec.size());
  int64_t logits = 0;
  for (int64_t n : nvec) {
    if (n < 1 || n > width) logits = width;  // more than there are
    logits += n;
  }
  switch (args.kind) {
    case PolicyKind::categorical:
      args.actions_width = width;
      break;
    case PolicyKind::normal:
      args.actions_width = width / 2;
      if (width % 2 != 0) {
        throw py::value_error("ppo_loss: params of a Normal must be [B, 2A] (mean and log_std)" + got);
      }
      break;
    case PolicyKind::multi_discrete:
      if (logits != width || nvec.empty()) {
        throw py::value_error("ppo_loss: params of a MultiDiscrete must be [B, sum of nvec] = [B, " +
                              std::to_string(logits) + "]" + got);
      }
      break;
    case PolicyKind::hybrid:
      args.actions_width = (width - logits) / 2;
      if (logits >= width || (width - logits) % 2 != 0 || nvec.empty()) {
        throw py::value_error("ppo_loss: params of a Hybrid must be [B, sum of nvec + 2A] = [B, " +
                              std::to_string(logits) + " + 2A] (logits, mean and log_std)" + got);
      }
      break;
    case PolicyKind::greedy:
      throw py::value_error("ppo_loss: kind must be that of a distribution, got 'greedy'");
  }
}

template <typename T>
PpoLossFault launch(PpoLossArgs<T>& args, const TensorReader& reader, bool cuda) {
  PpoLossFault fault;
  if (cuda) {
#ifdef OPTIX_FAST_HAS_CUDA
    const py::object scratch = py::module_::import("torch").attr("empty")(
        ppo_loss_cuda_scratch(args), py::arg("dtype") = py::module_::import("torch").attr("float64"),
        py::arg("device") = "cuda:" + std::to_string(reader.device_id()));
    const auto memory = static_cast<double*>(data_of(scratch));
    if (const char* error = ppo_loss_cuda(args, memory, reader.device_id(), reader.cuda_stream())) {
      throw std::runtime_error(std::string("ppo_loss: the CUDA kernel ppo_loss_kernel failed: ") + error);
    }
    return fault;
#else
    (void)reader;
    throw py::value_error("ppo_loss: params are on cuda, but this build of optix_fast has no CUDA kernels");
#endif
  }
  alignas(64) unsigned char on_stack[kStackScratch];
  std::unique_ptr<unsigned char[]> on_heap;
  const int64_t components = ppo_loss_discrete(args) + 1;
  const size_t needed = ppo_loss_scratch_bytes(ppo_loss_params_width(args), components);
  if (needed > kStackScratch) on_heap.reset(new unsigned char[needed]);
  args.scratch = reinterpret_cast<T*>(on_heap ? on_heap.get() : on_stack);
  run_kernel(args.batch * ppo_loss_params_width(args),
             [&] { fault = dispatch_simd([&](auto path) { return ppo_loss_cpu<path>(args); }); });
  return fault;
}

template <typename T>
py::object ppo_loss(TensorReader& reader, const TensorView& params, const Arguments& given) {
  const auto number = [&](Py_ssize_t at, const char* name) { return read_number(kOp, name, given[at]); };
  const auto numbers = [&](Py_ssize_t at, const char* name) {
    return read_sequence<double, &read_number>(kOp, name, given[at]);
  };
  const auto nvec = read_sequence<int64_t, &read_integer>(kOp, "nvec", given[kNvec]);
  PpoLossArgs<T> args{};
  read_sizes(args, static_cast<PolicyKind>(read_name(kOp, "kind", given[kKind], kPolicyKindNames)), nvec,
             params);
  const int64_t batch = args.batch, discrete = ppo_loss_discrete(args);
  const auto per_sample = [&](Py_ssize_t at, const char* name) {
    return reader.read(given[at], name, params.dtype, "[B]", {batch}).template as<T>();
  };
  args.params = params.as<T>();
  const py::handle actions = given[kActions];
  switch (args.kind) {
    case PolicyKind::categorical:
      args.discrete_actions = reader.read(actions, "actions", DType::i64, "[B]", {batch}).as<int64_t>();
      break;
    case PolicyKind::multi_discrete:
      args.discrete_actions =
          reader.read(actions, "actions", DType::i64, "[B, C]", {batch, discrete}).as<int64_t>();
      break;
    case PolicyKind::normal:
      args.continuous_actions =
          reader.read(actions, "actions", params.dtype, "[B, A]", {batch, args.actions_width})
              .template as<T>();
      break;
    case PolicyKind::hybrid:
      args.continuous_actions =
          reader.read(actions, "actions", params.dtype, "[B, C + A]", {batch, discrete + args.actions_width})
              .template as<T>();
      break;
    case PolicyKind::greedy:  // refused by read_sizes
      break;
  }
  if (!given[kActionMask].is_none()) {
    if (args.kind == PolicyKind::normal)
      throw py::value_error("ppo_loss: action_mask needs discrete actions");
    const bool one = args.kind == PolicyKind::categorical;
    const int64_t gaussian = args.kind == PolicyKind::hybrid ? 2 * args.actions_width : 0;
    args.action_mask = reader
                           .read(given[kActionMask], "action_mask", DType::b8,
                                 one ? "[B, K]" : "[B, sum of nvec]", {batch, params.shape[1] - gaussian})
                           .template as<uint8_t>();
  }
  args.old_log_probs = per_sample(kOldLogProbs, "old_log_probs");
  args.advantages = per_sample(kAdvantages, "advantages");
  args.values = per_sample(kValues, "values");
  args.returns = per_sample(kReturns, "returns");
  args.value_clip_mode =
      static_cast<ValueClip>(read_name(kOp, "value_clip_mode", given[kValueClipMode], kValueClipNames));
  if (!given[kOldValues].is_none()) args.old_values = per_sample(kOldValues, "old_values");
  if (args.value_clip_mode != ValueClip::none && args.old_values == nullptr) {
    throw py::value_error("ppo_loss: value_clip needs old_values, got None");
  }
  args.clip_ratio = number(kClipRatio, "clip_ratio");
  args.value_clip = number(kValueClip, "value_clip");
  args.vf_coef = number(kVfCoef, "vf_coef");
  const std::vector<double> coef = numbers(kEntropyCoef, "entropy_coef");
  const std::vector<double> floor = numbers(kEntropyFloor, "entropy_floor");
  const std::vector<double> floor_coef = numbers(kEntropyFloorCoef, "entropy_floor_coef");
  const auto components = static_cast<size_t>(discrete + (discrete == 0 || args.kind == PolicyKind::hybrid));
  if (coef.size() != components || (!floor.empty() && floor.size() != components) ||
      floor_coef.size() != components) {
    throw py::value_error("ppo_loss: entropy coefficients and floors must be one per component");
  }
  args.entropy_coef = coef.data();
  args.entropy_floor = floor.empty() ? nullptr : floor.data();
  args.entropy_floor_coef = floor_coef.data();
  args.normalize_advantages = given[kNormalizeAdvantages].ptr() == Py_True;
  args.loss = reader.read(given[kLoss], "loss", params.dtype, "[]", {}).template as<T>();
  const int64_t statistics = kPpoStatistics + static_cast<int64_t>(components);
  args.stats = reader.read(given[kStats], "stats", DType::f32, "[5 + components]", {statistics}).as<float>();
  py::object gradients = py::none();
  if (given[kWantGradients].ptr() == Py_True) {
    const py::object by_params = empty_like(given[kParams]), by_values = empty_like(given[kValues]);
    args.grad_params = static_cast<T*>(data_of(by_params));
    args.grad_values = static_cast<T*>(data_of(by_values));
    gradients = py::reinterpret_steal<py::object>(PyTuple_Pack(2, by_params.ptr(), by_values.ptr()));
    if (!gradients) throw py::error_already_set();
  }
  const PpoLossFault fault = launch(args, reader, params.is_cuda());
  if (fault.kind != PpoLossFault::none) throw_fault(fault, args);
  return gradients;
}

py::object ppo_loss_entry(const Arguments& given) {
  TensorReader reader(kOp);
  const TensorView params = reader.first(given[kParams], "params", {DType::f32, DType::f64}, "[B, D]", {2});
  return params.dtype == DType::f32 ? ppo_loss<float>(reader, params, given)
                                    : ppo_loss<double>(reader, params, given);
}

}  // namespace

void bind_ppo_loss(py::module_& m) { fast_function<&ppo_loss_entry, kArguments>(m, "ppo_loss"); }

}  // namespace optix_fast
