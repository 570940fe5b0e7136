// Whether what Python code was once looked at is still as it was then.
#pragma once

#include <pybind11/pybind11.h>

#include <utility>
#include <vector>

#include "tensor.h"

namespace optix_fast {

namespace py = pybind11;

// What must still hold for the description of the networks to be true: sizes and entries of the modules' own
// dicts; element type, shape and contiguous memory on the CPU of tensors, which have no hooks. Reading all that
// again costs nanoseconds, so every call does it.
struct Guards {
  struct Size {
    py::dict dict;
    Py_ssize_t size;
  };
  struct Entry {
    py::dict dict;
    py::object key, value;  // dict[key] is value; null: it has no such key
  };
  struct Plain {
    py::object tensor;
    DType dtype;
    std::vector<int64_t> shape;
  };
  std::vector<Size> sizes;
  std::vector<Entry> entries;
  std::vector<Plain> tensors;

  Guards(const py::list& given_sizes, const py::list& given_entries, const py::list& given_tensors) {
    for (py::handle item : given_sizes) {
      const auto pair = py::cast<py::tuple>(item);
      sizes.push_back({py::cast<py::dict>(pair[0]), py::cast<Py_ssize_t>(pair[1])});
    }
    for (py::handle item : given_entries) {
      const auto triple = py::cast<py::tuple>(item);
      py::object value = triple[2];
      if (value.is(py::ellipsis())) value = py::object();
      entries.push_back({py::cast<py::dict>(triple[0]), triple[1], std::move(value)});
    }
    TensorReader reader("Guards");
    for (py::handle item : given_tensors) {
      const TensorView view =
          reader.first(item, "tensor", {DType::f32, DType::f64, DType::i64}, "[…]", {0, 1, 2});
      tensors.push_back({py::reinterpret_borrow<py::object>(item), view.dtype,
                         std::vector<int64_t>(view.shape, view.shape + view.ndim)});
    }
  }

  bool hold() const {
    for (const Size& s : sizes) {
      if (PyDict_Size(s.dict.ptr()) != s.size) return false;
    }
    for (const Entry& e : entries) {
      PyObject* found = PyDict_GetItemWithError(e.dict.ptr(), e.key.ptr());
      if (found == nullptr && PyErr_Occurred()) throw py::error_already_set();
      if (found != e.value.ptr()) return false;
    }
    for (const Plain& p : tensors) {
      const auto ndim = static_cast<int32_t>(p.shape.size());
      if (memory_of(p.tensor, p.dtype, p.shape.data(), ndim) == nullptr || has_hooks(p.tensor)) return false;
    }
    return true;
  }

 private:
  static bool has_hooks(const py::object& tensor) {
    static PyObject* const names[] = {PyUnicode_InternFromString("_backward_hooks"),
                                      PyUnicode_InternFromString("_post_accumulate_grad_hooks")};
    for (PyObject* name : names) {
      const auto hooks = py::reinterpret_steal<py::object>(PyObject_GetAttr(tensor.ptr(), name));
      if (!hooks) throw py::error_already_set();
      if (!hooks.is_none() && PyObject_IsTrue(hooks.ptr()) == 1) return true;
    }
    return false;
  }
};

}  // namespace optix_fast
