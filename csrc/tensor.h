// A checked view of a tensor argument: the one place where Python objects become pointers.
//
// A binding reads its arguments through a TensorReader, which knows the op's name and the device of the first
// tensor, and says for every argument the element type and the shape in the words of the contract:
//
//   TensorReader reader("gae");
//   TensorView rewards = reader.first(handle, "rewards", {DType::f32, DType::f64}, "[T, N]", {2});
//   TensorView values = reader.read(handle, "values", rewards.dtype, "[T, N]", {T, N});
//
// A failure is a ValueError or TypeError of one form:
//   gae: values must be float32 [T, N] = [128, 8] on cpu, got float64 [128, 8]
// What is checked: it is a tensor with memory of its own kind (no FakeTensor, no lazily negated or conjugated
// view), element type, shape, contiguity, device. The views borrow: they are valid while the caller holds the
// Python objects, which a binding's own argument list guarantees.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <string>

#include "dlpack_abi.h"

namespace optix_fast {

namespace py = pybind11;

enum class DType : uint8_t { f32, f64, i32, i64, u8, u32, b8, other };

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::other;
  int32_t ndim = 0;
  const int64_t* shape = nullptr;
  dlpack::Device device{dlpack::kCpu, 0};

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
  int64_t numel() const {
    int64_t n = 1;
    for (int32_t i = 0; i < ndim; ++i) n *= shape[i];
    return n;
  }
  bool is_cpu() const { return device.type == dlpack::kCpu; }
  bool is_cuda() const { return device.type == dlpack::kCuda; }
};

class TensorReader {
 public:
  explicit TensorReader(const char* op) : op_(op) {}

  // The first argument fixes element type, device and (with the returned shape) the sizes of the others.
  TensorView first(py::handle object, const char* name, std::initializer_list<DType> dtypes, const char* dims,
                   std::initializer_list<int32_t> ndims);

  // Any later argument: exactly this type and shape, on the first one's device.
  TensorView read(py::handle object, const char* name, DType dtype, const char* dims, const int64_t* shape,
                  int32_t ndim);
  TensorView read(py::handle object, const char* name, DType dtype, const char* dims,
                  std::initializer_list<int64_t> shape) {
    return read(object, name, dtype, dims, shape.begin(), static_cast<int32_t>(shape.size()));
  }

  // A vector of n elements, or one element for all of them (ndim 0).
  TensorView read_vector_or_scalar(py::handle object, const char* name, DType dtype, const char* dims,
                                   int64_t n);

  // The stream torch currently uses on the device of the first argument.
  void* cuda_stream() const;
  int32_t device_id() const { return device_.id; }

 private:
  const char* op_;
  dlpack::Device device_{dlpack::kCpu, 0};
};

const char* dtype_name(DType dtype);

// The version of torch's exchange table. The first call of this, or the first tensor that crosses, imports
// torch and looks the table up; ImportError when torch has none that fits.
dlpack::Version exchange_api_version();

// torch.empty_like(tensor), and the memory of what it made, which needs no check.
py::object empty_like(py::handle tensor);
void* data_of(const py::object& fresh);

// The memory of a tensor that a TensorReader has read before, for a caller that looks at it again and again;
// null where type, shape, contiguity or device (the CPU) have become others.
void* memory_of(py::handle known, DType dtype, const int64_t* shape, int32_t ndim);

// A numpy array (or anything with the buffer protocol) as a writable, contiguous one-dimensional block, for
// the calls that fill arrays instead of tensors. Throws like TensorReader.
class ArrayView {
 public:
  ArrayView(const char* op, py::handle object, const char* name, DType dtype, bool writable);
  ~ArrayView();
  ArrayView(const ArrayView&) = delete;
  ArrayView& operator=(const ArrayView&) = delete;

  template <typename T>
  T* as() const {
    return static_cast<T*>(buffer_.buf);
  }
  int64_t size() const { return size_; }

 private:
  Py_buffer buffer_{};
  int64_t size_ = 0;
};

// Below this many elements a kernel is over before another thread could use the released interpreter lock,
// and releasing costs more than it gives.
constexpr int64_t kReleaseGilFrom = 1 << 15;

// Runs work() with the interpreter lock released when there is enough of it.
template <typename Work>
void run_kernel(int64_t elements, Work&& work) {
  if (elements >= kReleaseGilFrom) {
    py::gil_scoped_release release;
    work();
  } else {
    work();
  }
}

}  // namespace optix_fast
