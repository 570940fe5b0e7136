#include "gae.h"
#include "tensor.h"

namespace optix_fast {
namespace {

template <typename T>
void launch(const GaeArgs<T>& args, const TensorReader& reader, bool cuda) {
  if (!cuda) {
    run_kernel(args.steps * args.envs, [&] { dispatch_simd([&](auto path) { gae_cpu<path>(args); }); });
    return;
  }
#ifdef OPTIX_FAST_HAS_CUDA
  if (const char* error = gae_cuda(args, reader.device_id(), reader.cuda_stream())) {
    throw std::runtime_error(std::string("gae: the CUDA kernel gae_kernel failed: ") + error);
  }
#else
  (void)reader;
  throw py::value_error("gae: rewards are on cuda, but this build of optix_fast has no CUDA kernels");
#endif
}

template <typename T>
void gae(TensorReader& reader, const TensorView& rewards, py::handle values, py::handle last_value,
         py::handle terminated, py::handle truncated, py::handle final_values, double gamma,
         double gae_lambda, py::handle advantages, py::handle returns) {
  const bool flat = rewards.ndim == 1;
  const char* dims = flat ? "[T]" : "[T, N]";
  const auto same = [&](py::handle object, const char* name, DType dtype) {
    return reader.read(object, name, dtype, dims, rewards.shape, rewards.ndim);
  };
  GaeArgs<T> args{};
  args.steps = rewards.shape[0];
  args.envs = flat ? 1 : rewards.shape[1];
  args.rewards = rewards.as<T>();
  args.values = same(values, "values", rewards.dtype).template as<T>();
  if (PyFloat_Check(last_value.ptr()) || PyLong_Check(last_value.ptr())) {
    args.last_scalar = static_cast<T>(py::cast<double>(last_value));
  } else {
    const TensorView last =
        reader.read_vector_or_scalar(last_value, "last_value", rewards.dtype, "[N]", args.envs);
    args.last_value = last.as<T>();
    args.last_value_stride = last.ndim == 0 ? 0 : 1;
  }
  args.terminated = same(terminated, "terminated", DType::b8).template as<uint8_t>();
  if (!truncated.is_none()) {
    args.truncated = same(truncated, "truncated", DType::b8).template as<uint8_t>();
    args.final_values = same(final_values, "final_values", rewards.dtype).template as<T>();
  }
  args.gamma = gamma;
  args.gae_lambda = gae_lambda;
  args.advantages = same(advantages, "advantages", rewards.dtype).template as<T>();
  args.returns = same(returns, "returns", rewards.dtype).template as<T>();
  launch(args, reader, rewards.is_cuda());
}

void gae_entry(py::handle rewards, py::handle values, py::handle last_value, py::handle terminated,
               py::handle truncated, py::handle final_values, double gamma, double gae_lambda,
               py::handle advantages, py::handle returns) {
  TensorReader reader("gae");
  const TensorView first =
      reader.first(rewards, "rewards", {DType::f32, DType::f64}, "[T, N] or [T]", {2, 1});
  const auto call = first.dtype == DType::f32 ? &gae<float> : &gae<double>;
  call(reader, first, values, last_value, terminated, truncated, final_values, gamma, gae_lambda, advantages,
       returns);
}

}  // namespace

void bind_gae(py::module_& m) { m.def("gae", &gae_entry); }

}  // namespace optix_fast
