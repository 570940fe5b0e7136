// What the bindings of the two trees share: the layout in memory, and the reading of their arguments.
#pragma once

#include <memory>
#include <string>

#include "sum_tree.h"
#include "tensor.h"

namespace optix_fast {
namespace {

constexpr const char* kOp = "SumTree";
int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Fills in the sizes and returns how many bytes the tree takes; with `memory`, the pointers too.
int64_t lay_out(SumTreeView& tree, int64_t capacity, bool on_device, char* memory) {
  int64_t used = 0;
  const auto take = [&](int64_t bytes) {
    char* at = memory == nullptr ? nullptr : memory + used;
    used += round_up(bytes, kTreeLineBytes);
    return at;
  };
  tree.capacity = capacity;
  tree.lines[0] = (capacity + kLeavesPerLine - 1) / kLeavesPerLine;
  tree.levels = 1;
  while (tree.lines[tree.levels - 1] > 1) {
    tree.lines[tree.levels] = (tree.lines[tree.levels - 1] + kSumsPerLine - 1) / kSumsPerLine;
    ++tree.levels;
  }
  tree.leaves = reinterpret_cast<float*>(take(tree.lines[0] * kTreeLineBytes));
  for (int level = 0; level < tree.levels; ++level) {
    tree.sums[level] = reinterpret_cast<double*>(take(tree.lines[level] * int64_t(sizeof(double))));
  }
  if (on_device) {
    tree.winners = reinterpret_cast<int32_t*>(take(capacity * int64_t(sizeof(int32_t))));
  } else {
    for (int level = 0; level < tree.levels; ++level) {
      tree.marks[level] = reinterpret_cast<uint64_t*>(take((tree.lines[level] + 63) / 64 * 8));
    }
  }
  return used;
}

int64_t checked_capacity(int64_t capacity) {
  if (capacity < 1 || capacity > kMaxTreeCapacity) {
    throw py::value_error("SumTree: capacity must be in [1, 2**40], got " + std::to_string(capacity));
  }
  return capacity;
}

uint64_t blocks_of(int64_t n) { return (uint64_t(n) + 1) / 2; }  // two 53-bit numbers in each block

// A one-dimensional tensor on the device of `reader`'s first one, or where `numpy` allows it an array.
class Vector {
 public:
  Vector(TensorReader& reader, bool first, py::handle object, const char* name, DType dtype, const char* dims,
         int64_t n) {
    if (PyObject_CheckBuffer(object.ptr())) {
      array_ = std::make_unique<ArrayView>(kOp, object, name, dtype, false);
      const py::object ndim = py::getattr(object, "ndim", py::int_(-1));
      if (!ndim.equal(py::int_(1)) || (!first && array_->size() != n)) {
        const py::object shape = py::getattr(object, "shape", py::str("no shape"));
        throw py::value_error(std::string(kOp) + ": " + name + " must be " + dtype_name(dtype) + " " + dims +
                              (first ? "" : " = [" + std::to_string(n) + "]") + ", got an array of shape " +
                              std::string(py::str(shape)));
      }
      data_ = array_->as<void>();
      size_ = array_->size();
      return;
    }
    const TensorView view =
        first ? reader.first(object, name, {dtype}, dims, {1}) : reader.read(object, name, dtype, dims, {n});
    cuda_ = view.is_cuda();
    data_ = view.data;
    size_ = view.shape[0];
  }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  int64_t size() const { return size_; }
  bool is_cuda() const { return cuda_; }

 private:
  std::unique_ptr<ArrayView> array_;
  void* data_ = nullptr;
  int64_t size_ = 0;
  bool cuda_ = false;
};

void require_cpu(const Vector& vector, const char* name) {
  if (vector.is_cuda()) {
    throw py::value_error(std::string(kOp) + ": " + name + " must be on cpu like the tree, got it on cuda");
  }
}

template <typename Value>
[[noreturn]] void fail_at(const char* name, const std::string& wanted, Value got, int64_t at) {
  const py::str text = py::repr(py::cast(got));
  throw py::value_error(std::string(kOp) + ": " + name + " must be " + wanted + ", got " + std::string(text) +
                        " at position " + std::to_string(at));
}

}  // namespace
}  // namespace optix_fast
