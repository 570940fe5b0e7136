// A binding without pybind11's argument machinery, for the ops that are called once per minibatch.
//
// pybind11 resolves overloads and converts every argument, which costs as much as a small kernel.
// fast_function registers a function that receives the interpreter's own argument array instead and reads
// each argument once, through TensorReader or the readers below. Exceptions become Python's as pybind11 would
// make them.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <string>
#include <vector>

namespace optix_fast {

namespace py = pybind11;

// The positional arguments of one call, borrowed.
class Arguments {
 public:
  Arguments(PyObject* const* items, Py_ssize_t n) : items_(items), n_(n) {}
  py::handle operator[](Py_ssize_t i) const { return items_[i]; }
  Py_ssize_t size() const { return n_; }

 private:
  PyObject* const* items_;
  Py_ssize_t n_;
};

inline double read_number(const char* op, const char* name, py::handle object) {
  const double value = PyFloat_AsDouble(object.ptr());
  if (value == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    throw py::type_error(std::string(op) + ": " + name + " must be a number, got " +
                         Py_TYPE(object.ptr())->tp_name);
  }
  return value;
}

inline int64_t read_integer(const char* op, const char* name, py::handle object) {
  const long long value = PyLong_AsLongLong(object.ptr());
  if (value == -1 && PyErr_Occurred()) {
    PyErr_Clear();
    throw py::type_error(std::string(op) + ": " + name + " must be an integer, got " +
                         Py_TYPE(object.ptr())->tp_name);
  }
  return value;
}

// A list or tuple of numbers.
template <typename T, T (*Read)(const char*, const char*, py::handle)>
std::vector<T> read_sequence(const char* op, const char* name, py::handle object) {
  PyObject* list = object.ptr();
  if (!PyList_Check(list) && !PyTuple_Check(list)) {
    throw py::type_error(std::string(op) + ": " + name + " must be a list or tuple, got " +
                         Py_TYPE(list)->tp_name);
  }
  std::vector<T> items(static_cast<size_t>(PySequence_Fast_GET_SIZE(list)));
  for (size_t i = 0; i < items.size(); ++i) {
    items[i] = Read(op, name, PySequence_Fast_GET_ITEM(list, static_cast<Py_ssize_t>(i)));
  }
  return items;
}

using FastFunction = py::object (*)(const Arguments&);

template <FastFunction Function, int Count>
PyObject* fast_call(PyObject*, PyObject* const* items, Py_ssize_t n) noexcept {
  try {
    if (n != Count) {
      throw py::type_error("expected " + std::to_string(Count) + " positional arguments, got " +
                           std::to_string(n));
    }
    return Function(Arguments(items, n)).release().ptr();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const py::builtin_exception& error) {
    error.set_error();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

// Binds a function of exactly `Count` positional arguments.
template <FastFunction Function, int Count>
void fast_function(py::module_& m, const char* name) {
  static PyMethodDef definition{name, nullptr, METH_FASTCALL, nullptr};
  // The signature is the one that METH_FASTCALL declares; PyMethodDef has only one function type for all of
  // them.
  definition.ml_meth =
      reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&fast_call<Function, Count>));
  const py::object module_name = m.attr("__name__");
  PyObject* function = PyCFunction_NewEx(&definition, nullptr, module_name.ptr());
  if (function == nullptr) throw py::error_already_set();
  m.attr(name) = py::reinterpret_steal<py::object>(function);
}

}  // namespace optix_fast
