// Whether what Python code was once looked at is still as it was then.
#pragma once

#include <pybind11/pybind11.h>

#include <utility>
#include <vector>

namespace optix_fast {

namespace py = pybind11;

// What must still hold for the description of the networks to be true: sizes and entries of the modules' own
// dicts. Reading them again costs nanoseconds, so every call does it.
struct Guards {
  struct Size {
    py::dict dict;
    Py_ssize_t size;
  };
  struct Entry {
    py::dict dict;
    py::object key, value;  // dict[key] is value; null: it has no such key
  };
  std::vector<Size> sizes;
  std::vector<Entry> entries;

  Guards(const py::list& given_sizes, const py::list& given_entries) {
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
    return true;
  }
};

}  // namespace optix_fast
