#include "ppo_loss.h"

#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "tensor.h"

namespace optix_fast {
namespace {

// Small problems need no allocation: 32 columns of scratch fit here.
constexpr size_t kStackScratch = 32 * ppo_loss_scratch_bytes(1);

[[noreturn]] void throw_fault(const PpoLossFault& fault, const int64_t* actions, int64_t n) {
  const std::string row = " at row " + std::to_string(fault.row);
  const std::string action = std::to_string(actions[fault.row]);
  switch (fault.kind) {
    case PpoLossFault::action_out_of_range:
      throw py::value_error("ppo_loss: actions must be in [0, K) = [0, " + std::to_string(n) + "), got " +
                            action + row);
    case PpoLossFault::action_masked:
      throw py::value_error("ppo_loss: action_mask forbids the action taken, " + action + row);
    default:
      throw py::value_error("ppo_loss: action_mask forbids every action" + row);
  }
}

// The arguments as the Python side passes them, before their types are known.
struct Call {
  std::string dist;
  py::handle params, actions, old_log_probs, advantages, values, returns, old_values, action_mask;
  double clip_ratio;
  int value_clip_mode;
  double value_clip, vf_coef;
  std::vector<double> entropy_coef, entropy_floor, entropy_floor_coef;
  bool normalize_advantages;
  py::handle loss, stats, grad_params, grad_values;
};

template <typename T>
void ppo_loss(const Call& call, TensorReader& reader, const TensorView& params) {
  const int64_t batch = params.shape[0];
  const int64_t width = params.shape[1];
  const auto per_sample = [&](py::handle object, const char* name) {
    return reader.read(object, name, params.dtype, "[B]", {batch}).template as<T>();
  };
  PpoLossArgs<T> args{};
  args.kind = call.dist == "normal" ? PolicyKind::normal : PolicyKind::categorical;
  args.batch = batch;
  args.params = params.as<T>();
  if (batch == 0 || width == 0) throw py::value_error("ppo_loss: params must not be empty");
  if (args.kind == PolicyKind::normal) {
    if (width % 2 != 0) {
      throw py::value_error("ppo_loss: params of a Normal must be [B, 2A] (mean and log_std), got [" +
                            std::to_string(batch) + ", " + std::to_string(width) + "]");
    }
    args.actions_width = width / 2;
    args.continuous_actions =
        reader.read(call.actions, "actions", params.dtype, "[B, A]", {batch, width / 2}).template as<T>();
  } else {
    args.actions_width = width;
    args.discrete_actions = reader.read(call.actions, "actions", DType::i64, "[B]", {batch}).as<int64_t>();
    if (!call.action_mask.is_none()) {
      args.action_mask =
          reader.read(call.action_mask, "action_mask", DType::b8, "[B, K]", {batch, width}).as<uint8_t>();
    }
  }
  args.old_log_probs = per_sample(call.old_log_probs, "old_log_probs");
  args.advantages = per_sample(call.advantages, "advantages");
  args.values = per_sample(call.values, "values");
  args.returns = per_sample(call.returns, "returns");
  args.value_clip_mode = static_cast<ValueClip>(call.value_clip_mode);
  if (!call.old_values.is_none()) args.old_values = per_sample(call.old_values, "old_values");
  args.clip_ratio = call.clip_ratio;
  args.value_clip = call.value_clip;
  args.vf_coef = call.vf_coef;
  args.entropy_coef = call.entropy_coef.data();
  args.entropy_floor = call.entropy_floor.empty() ? nullptr : call.entropy_floor.data();
  args.entropy_floor_coef = call.entropy_floor_coef.data();
  args.normalize_advantages = call.normalize_advantages;
  args.loss = reader.read(call.loss, "loss", params.dtype, "[]", {}).template as<T>();
  const int64_t statistics = kPpoStatistics + static_cast<int64_t>(call.entropy_coef.size());
  args.stats = reader.read(call.stats, "stats", DType::f32, "[5 + components]", {statistics}).as<float>();
  if (!call.grad_params.is_none()) {
    args.grad_params =
        reader.read(call.grad_params, "grad_params", params.dtype, "[B, D]", {batch, width}).template as<T>();
    args.grad_values = per_sample(call.grad_values, "grad_values");
  }

  alignas(64) unsigned char on_stack[kStackScratch];
  std::unique_ptr<unsigned char[]> on_heap;
  const size_t needed = ppo_loss_scratch_bytes(args.actions_width);
  if (needed > kStackScratch) on_heap.reset(new unsigned char[needed]);
  args.scratch = reinterpret_cast<T*>(on_heap ? on_heap.get() : on_stack);

  PpoLossFault fault;
  run_kernel(batch * width,
             [&] { fault = dispatch_simd([&](auto path) { return ppo_loss_cpu<path>(args); }); });
  if (fault.kind != PpoLossFault::none) throw_fault(fault, args.discrete_actions, args.actions_width);
}

void ppo_loss_entry(std::string dist, py::handle params, py::handle actions, py::handle old_log_probs,
                    py::handle advantages, py::handle values, py::handle returns, py::handle old_values,
                    py::handle action_mask, double clip_ratio, int value_clip_mode, double value_clip,
                    double vf_coef, std::vector<double> entropy_coef, std::vector<double> entropy_floor,
                    std::vector<double> entropy_floor_coef, bool normalize_advantages, py::handle loss,
                    py::handle stats, py::handle grad_params, py::handle grad_values) {
  const Call call{std::move(dist),
                  params,
                  actions,
                  old_log_probs,
                  advantages,
                  values,
                  returns,
                  old_values,
                  action_mask,
                  clip_ratio,
                  value_clip_mode,
                  value_clip,
                  vf_coef,
                  std::move(entropy_coef),
                  std::move(entropy_floor),
                  std::move(entropy_floor_coef),
                  normalize_advantages,
                  loss,
                  stats,
                  grad_params,
                  grad_values};
  TensorReader reader("ppo_loss");
  const TensorView first = reader.first(params, "params", {DType::f32, DType::f64}, "[B, D]", {2});
  if (!first.is_cpu()) throw py::value_error("ppo_loss: the core has no CUDA kernel for it");
  const auto run = first.dtype == DType::f32 ? &ppo_loss<float> : &ppo_loss<double>;
  run(call, reader, first);
}

}  // namespace

void bind_ppo_loss(py::module_& m) { m.def("ppo_loss", &ppo_loss_entry); }

}  // namespace optix_fast
