#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "guards.h"
#include "mlp_bind.h"
#include "threads.h"

namespace optix_fast {
namespace {

struct Free {
  void operator()(unsigned char* p) const { std::free(p); }
};

// One stack forwards and, with a grad_output, backwards: how the tests and benchmarks reach the dense
// kernels. `few` takes the way of single rows. grads holds a pair (weight, bias) for each layer.
template <typename T>
void mlp(TensorReader& reader, const TensorView& input, const py::list& described, bool head, bool few,
         py::handle output, py::handle grad_output, const py::list& grads, py::handle grad_input) {
  const int64_t rows = input.shape[0], in = input.shape[1];
  std::vector<Layer<T>> layers;
  const int64_t out = read_layers<T>(reader, input.dtype, described, in, layers);
  const Stack<T> stack = stack_of(layers, head);
  T* result = reader.read(output, "output", input.dtype, "[B, out]", {rows, out}).template as<T>();
  Scratch<T> scratch;
  T *x = nullptr, *delta = nullptr, *by_input = nullptr, *lines = nullptr;
  const int64_t line = padded<T>(widest(stack));
  place_in_thread_memory([&](Arena& arena) {
    stack_place(stack, rows, arena);
    scratch_place(scratch, rows, widest(stack), arena);
    x = arena.take<T>(whole_rows(rows) * padded<T>(in));
    delta = arena.take<T>(whole_rows(rows) * padded<T>(out));
    by_input = arena.take<T>(whole_rows(rows) * padded<T>(in));
    lines = arena.take<T>(stack.n * line);
  });
  for (int64_t i = 0; i < rows; ++i)
    std::memcpy(x + i * padded<T>(in), input.as<T>() + i * in, in * sizeof(T));
  if (few) {
    dispatch_simd([&](auto path) {
      stack_forward_few_cpu<path, T>(stack, x, padded<T>(in), rows, lines, line, result, out);
    });
    return;
  }
  const int64_t stride = stack.last().stride;
  dispatch_simd([&](auto path) {
    stack_refresh_cpu<path, T>(stack);
    stack_forward_cpu<path, T>(stack, x, padded<T>(in), rows);
  });
  for (int64_t i = 0; i < rows; ++i) {
    std::memcpy(result + i * out, stack.last().output + i * stride, out * sizeof(T));
  }
  if (grad_output.is_none()) return;
  const T* by_output =
      reader.read(grad_output, "grad_output", input.dtype, "[B, out]", {rows, out}).template as<T>();
  T* target = reader.read(grad_input, "grad_input", input.dtype, "[B, in]", {rows, in}).template as<T>();
  for (int64_t i = 0; i < rows; ++i) std::memcpy(delta + i * stride, by_output + i * out, out * sizeof(T));
  dispatch_simd([&](auto path) {
    stack_backward_cpu<path, T>(stack, scratch, x, padded<T>(in), rows, delta, by_input);
  });
  for (int64_t i = 0; i < rows; ++i) {
    std::memcpy(target + i * in, by_input + i * padded<T>(in), in * sizeof(T));
  }
  for (int64_t i = 0; i < stack.n; ++i) {
    const Layer<T>& l = stack.layers[i];
    const auto pair = py::cast<py::tuple>(grads[i]);
    if (!pair[0].is_none()) {
      const std::vector<int64_t> shape = weight_shape(l);
      const auto ndim = static_cast<int32_t>(shape.size());
      const auto weight = reader.read(pair[0], "grad weight", input.dtype, "like weight", shape.data(), ndim);
      std::memcpy(weight.data, l.grad_weight, weight_size(l) * sizeof(T));
    }
    if (pair[1].is_none()) continue;
    const auto bias = reader.read(pair[1], "grad bias", input.dtype, "[out]", {l.out});
    std::memcpy(bias.data, l.grad_bias, l.out * sizeof(T));
  }
}

void mlp_entry(const py::list& layers, bool head, bool few, py::handle input, py::handle output,
               py::handle grad_output, const py::list& grads, py::handle grad_input) {
  TensorReader reader("mlp");
  const TensorView first = reader.first(input, "input", {DType::f32, DType::f64}, "[B, in]", {2});
  if (!first.is_cpu()) throw py::value_error("mlp: the core has no CUDA kernel for it");
  const auto run = first.dtype == DType::f32 ? &mlp<float> : &mlp<double>;
  run(reader, first, layers, head, few, output, grad_output, grads, grad_input);
}

}  // namespace

unsigned char* thread_memory(size_t bytes) {
  thread_local std::unique_ptr<unsigned char, Free> memory;
  thread_local size_t size = 0;
  if (bytes > size) {
    size = (bytes + 4095) / 4096 * 4096;
    memory.reset(static_cast<unsigned char*>(std::aligned_alloc(64, size)));
    if (memory == nullptr) {
      size = 0;
      throw std::bad_alloc();
    }
  }
  std::memset(memory.get(), 0, bytes);
  return memory.get();
}

void bind_mlp(py::module_& m) {
  m.def("mlp", &mlp_entry);
  py::class_<Guards>(m, "Guards")
      .def(py::init<const py::list&, const py::list&, const py::list&>(), py::arg("sizes"),
           py::arg("entries"), py::arg("tensors") = py::list())
      .def("hold", &Guards::hold);
  m.def("team_members", &members_for);
}

}  // namespace optix_fast
