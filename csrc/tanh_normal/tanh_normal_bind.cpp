#include "tanh_normal.h"

#include <memory>
#include <string>

#include "tensor.h"

namespace optix_fast {
namespace {

// Rows of log σ up to this size are laid out without an allocation.
constexpr int64_t kStackWidth = 64;
constexpr size_t kMostGradients = 3;  // by mean, log_std and value

template <typename T>
TanhNormalParams<T> read_params(TensorReader& reader, const TensorView& mean, py::handle log_std) {
  TanhNormalParams<T> params{};
  params.batch = mean.shape[0];
  params.width = mean.shape[1];
  params.mean = mean.as<T>();
  params.shared_log_std = py::hasattr(log_std, "ndim") && py::cast<int>(log_std.attr("ndim")) == 1;
  const TensorView view = params.shared_log_std
                              ? reader.read(log_std, "log_std", mean.dtype, "[A]", mean.shape + 1, 1)
                              : reader.read(log_std, "log_std", mean.dtype, "[B, A]", mean.shape, 2);
  params.log_std = view.as<T>();
  return params;
}

// Runs cpu(path, args) with scratch where the kernel needs some, or cuda(args, device, stream).
template <typename Args, typename Cpu, typename Cuda>
void launch(const char* op, Args& args, const TensorReader& reader, bool on_cpu, Cpu cpu, Cuda cuda) {
  using T = std::remove_pointer_t<decltype(args.log_prob)>;
  if (on_cpu) {
    T on_stack[tanh_normal_scratch(kStackWidth)];
    std::unique_ptr<T[]> on_heap;
    args.params.scratch = on_stack;
    if (args.params.shared_log_std && args.params.width > kStackWidth) {
      on_heap.reset(new T[tanh_normal_scratch(args.params.width)]);
      args.params.scratch = on_heap.get();
    }
    run_kernel(args.params.batch * args.params.width,
               [&] { dispatch_simd([&](auto path) { cpu(path, args); }); });
    return;
  }
#ifdef OPTIX_FAST_HAS_CUDA
  if (const char* error = cuda(args, reader.device_id(), reader.cuda_stream())) {
    throw std::runtime_error(std::string(op) + ": the CUDA kernel " + op + " failed: " + error);
  }
#else
  (void)reader;
  (void)cuda;
  throw py::value_error(std::string(op) +
                        ": mean is on cuda, but this build of optix_fast has no CUDA kernels");
#endif
}

template <typename T>
void log_prob(TensorReader& reader, const TensorView& mean, py::handle log_std, py::handle value,
              bool squashed, py::handle log_prob, py::handle by_mean, py::handle by_log_std,
              py::handle by_value) {
  const auto gradient = [&](py::handle object, const char* name) -> T* {
    if (object.is_none()) return nullptr;
    return reader.read(object, name, mean.dtype, "[B, A]", mean.shape, 2).template as<T>();
  };
  TanhNormalLogProbArgs<T> args{};
  args.params = read_params<T>(reader, mean, log_std);
  args.value = reader.read(value, squashed ? "action" : "pre_tanh", mean.dtype, "[B, A]", mean.shape, 2)
                   .template as<T>();
  args.squashed = squashed;
  args.log_prob = reader.read(log_prob, "log_prob", mean.dtype, "[B]", {args.params.batch}).template as<T>();
  args.by_mean = gradient(by_mean, "by_mean");
  args.by_log_std = gradient(by_log_std, "by_log_std");
  args.by_value = gradient(by_value, "by_value");
  launch(
      "tanh_normal_log_prob", args, reader, mean.is_cpu(),
      [](auto path, auto& a) { tanh_normal_log_prob_cpu<path>(a); },
      [](auto& a, int device, void* stream) { return tanh_normal_log_prob_cuda(a, device, stream); });
}

void log_prob_entry(py::handle mean, py::handle log_std, py::handle value, bool squashed,
                    py::handle log_prob_out, py::handle by_mean, py::handle by_log_std, py::handle by_value) {
  TensorReader reader("tanh_normal_log_prob");
  const TensorView first = reader.first(mean, "mean", {DType::f32, DType::f64}, "[B, A]", {2});
  const auto call = first.dtype == DType::f32 ? &log_prob<float> : &log_prob<double>;
  call(reader, first, log_std, value, squashed, log_prob_out, by_mean, by_log_std, by_value);
}

template <typename T>
void sample(TensorReader& reader, const TensorView& mean, py::handle log_std, uint64_t key, uint64_t offset,
            py::handle action, py::handle log_prob, py::handle pre_tanh, py::handle slope,
            py::handle spread) {
  const auto like_mean = [&](py::handle object, const char* name) {
    return reader.read(object, name, mean.dtype, "[B, A]", mean.shape, 2).template as<T>();
  };
  TanhNormalSampleArgs<T> args{};
  args.params = read_params<T>(reader, mean, log_std);
  args.key = key;
  args.offset = offset;
  args.action = like_mean(action, "action");
  args.log_prob = reader.read(log_prob, "log_prob", mean.dtype, "[B]", {args.params.batch}).template as<T>();
  args.pre_tanh = like_mean(pre_tanh, "pre_tanh");
  if (!slope.is_none()) {
    args.slope = like_mean(slope, "slope");
    args.spread = like_mean(spread, "spread");
  }
  launch(
      "tanh_normal_sample", args, reader, mean.is_cpu(),
      [](auto path, auto& a) { tanh_normal_sample_cpu<path>(a); },
      [](auto& a, int device, void* stream) { return tanh_normal_sample_cuda(a, device, stream); });
}

// Returns the number of blocks of the stream that it consumed.
uint64_t sample_entry(py::handle mean, py::handle log_std, uint64_t key, uint64_t offset, py::handle action,
                      py::handle log_prob, py::handle pre_tanh, py::handle slope, py::handle spread) {
  TensorReader reader("tanh_normal_sample");
  const TensorView first = reader.first(mean, "mean", {DType::f32, DType::f64}, "[B, A]", {2});
  const auto call = first.dtype == DType::f32 ? &sample<float> : &sample<double>;
  call(reader, first, log_std, key, offset, action, log_prob, pre_tanh, slope, spread);
  return static_cast<uint64_t>((first.numel() + 3) / 4);
}

// The gradients of a log-probability, and where their products go; the last may be None.
struct ScaleCall {
  py::handle by_row, gradients[kMostGradients], out[kMostGradients];
};

template <typename T>
void scale(TensorReader& reader, const TensorView& first, const ScaleCall& call) {
  const int64_t batch = first.shape[0], width = first.shape[1];
  const T* factors = reader.read(call.by_row, "by_log_prob", first.dtype, "[B]", {batch}).template as<T>();
  const T* in[kMostGradients];
  T* to[kMostGradients];
  int64_t count = 0;
  for (size_t k = 0; k < kMostGradients; ++k) {
    if (call.gradients[k].is_none()) continue;
    const auto read = [&](py::handle object, const char* name) {
      return reader.read(object, name, first.dtype, "[B, A]", first.shape, 2).template as<T>();
    };
    in[count] = read(call.gradients[k], "gradient");
    to[count++] = read(call.out[k], "out");
  }
  run_kernel(count * batch * width, [&] {
    dispatch_simd([&](auto path) { tanh_normal_scale_cpu<path>(batch, width, factors, count, in, to); });
  });
}

void scale_entry(py::handle by_row, py::handle by_mean, py::handle by_log_std, py::handle by_value,
                 py::handle out_mean, py::handle out_log_std, py::handle out_value) {
  const ScaleCall call{by_row, {by_mean, by_log_std, by_value}, {out_mean, out_log_std, out_value}};
  TensorReader reader("tanh_normal_scale");
  const TensorView first = reader.first(by_mean, "by_mean", {DType::f32, DType::f64}, "[B, A]", {2});
  if (!first.is_cpu()) throw py::value_error("tanh_normal_scale: by_mean must be on cpu");
  const auto run = first.dtype == DType::f32 ? &scale<float> : &scale<double>;
  run(reader, first, call);
}

}  // namespace

void bind_tanh_normal(py::module_& m) {
  m.def("tanh_normal_log_prob", &log_prob_entry);
  m.def("tanh_normal_sample", &sample_entry);
  m.def("tanh_normal_scale", &scale_entry);
}

}  // namespace optix_fast
