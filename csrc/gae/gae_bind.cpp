#include "fast_call.h"
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

// The positions of the arguments of _C.gae.
enum : Py_ssize_t {
  kRewards,
  kValues,
  kLastValue,
  kTerminated,
  kTruncated,
  kFinalValues,
  kGamma,
  kLambda,
  kOut,
  kArguments
};

struct Span {
  const char *begin, *end;
};

template <typename T>
Span span(const T* data, int64_t n) {
  return {reinterpret_cast<const char*>(data), reinterpret_cast<const char*>(data + n)};
}

// An element is written before the rows above it have read its neighbours.
template <typename T>
void refuse_overlap(const GaeArgs<T>& args) {
  const int64_t n = args.steps * args.envs;
  const int64_t n_last = args.last_value == nullptr ? 0 : args.last_value_stride == 0 ? 1 : args.envs;
  const Span inputs[] = {span(args.rewards, n),
                         span(args.values, n),
                         span(args.terminated, n),
                         span(args.last_value, n_last),
                         span(args.truncated, args.truncated == nullptr ? 0 : n),
                         span(args.final_values, args.final_values == nullptr ? 0 : n)};
  const Span advantages = span<T>(args.advantages, n), returns = span<T>(args.returns, n);
  const auto overlap = [](Span a, Span b) { return a.begin < b.end && b.begin < a.end; };
  bool any = overlap(advantages, returns);
  for (Span input : inputs) any = any || overlap(input, advantages) || overlap(input, returns);
  if (any) throw py::value_error("gae: out must not share memory with an input or with itself");
}

template <typename T>
py::object gae(TensorReader& reader, const TensorView& rewards, const Arguments& given) {
  const bool flat = rewards.ndim == 1;
  const char* dims = flat ? "[T]" : "[T, N]";
  const auto same = [&](py::handle object, const char* name, DType dtype) {
    return reader.read(object, name, dtype, dims, rewards.shape, rewards.ndim);
  };
  GaeArgs<T> args{};
  args.steps = rewards.shape[0];
  args.envs = flat ? 1 : rewards.shape[1];
  args.rewards = rewards.as<T>();
  args.values = same(given[kValues], "values", rewards.dtype).template as<T>();
  const py::handle last_value = given[kLastValue];
  if (PyFloat_Check(last_value.ptr()) || PyLong_Check(last_value.ptr())) {
    args.last_scalar = static_cast<T>(read_number("gae", "last_value", last_value));
  } else {
    const TensorView last =
        reader.read_vector_or_scalar(last_value, "last_value", rewards.dtype, "[N]", args.envs);
    args.last_value = last.as<T>();
    args.last_value_stride = last.ndim == 0 ? 0 : 1;
  }
  args.terminated = same(given[kTerminated], "terminated", DType::b8).template as<uint8_t>();
  if (!given[kTruncated].is_none()) {
    args.truncated = same(given[kTruncated], "truncated", DType::b8).template as<uint8_t>();
    args.final_values = same(given[kFinalValues], "final_values", rewards.dtype).template as<T>();
  }
  args.gamma = read_number("gae", "gamma", given[kGamma]);
  args.gae_lambda = read_number("gae", "gae_lambda", given[kLambda]);
  py::object out;
  if (given[kOut].is_none()) {
    const py::object advantages = empty_like(given[kRewards]), returns = empty_like(given[kRewards]);
    args.advantages = static_cast<T*>(data_of(advantages));
    args.returns = static_cast<T*>(data_of(returns));
    out = py::reinterpret_steal<py::object>(PyTuple_Pack(2, advantages.ptr(), returns.ptr()));
    if (!out) throw py::error_already_set();
  } else {
    out = py::reinterpret_borrow<py::object>(given[kOut]);
    if (!PyTuple_Check(out.ptr()) || PyTuple_GET_SIZE(out.ptr()) != 2) {
      throw py::type_error("gae: out must be a tuple (advantages, returns)");
    }
    args.advantages = same(PyTuple_GET_ITEM(out.ptr(), 0), "advantages", rewards.dtype).template as<T>();
    args.returns = same(PyTuple_GET_ITEM(out.ptr(), 1), "returns", rewards.dtype).template as<T>();
    refuse_overlap(args);
  }
  launch(args, reader, rewards.is_cuda());
  return out;
}

py::object gae_entry(const Arguments& given) {
  TensorReader reader("gae");
  const TensorView first =
      reader.first(given[kRewards], "rewards", {DType::f32, DType::f64}, "[T, N] or [T]", {2, 1});
  return first.dtype == DType::f32 ? gae<float>(reader, first, given) : gae<double>(reader, first, given);
}

}  // namespace

void bind_gae(py::module_& m) { fast_function<&gae_entry, kArguments>(m, "gae"); }

}  // namespace optix_fast
