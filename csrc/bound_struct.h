// Structs that cross from Python, and the named tuples that go back.
//
//   BoundStruct<DqnOptions>(m, "DQNOptions", Positional::no)
//       .required<&DqnOptions::n_step>("n_step")
//       .optional<&DqnOptions::max_grad_norm>("max_grad_norm");
//
// Python then has a class DQNOptions(*, n_step, max_grad_norm=...). An argument that is missing, unknown or
// of another type is a TypeError that names it; what is left out keeps the value of a new C++ struct.
// (pybind11's own constructors would list all signatures and all values instead.)
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <vector>

#include "fast_call.h"

namespace optix_fast {

// The position of a name in `names`; ValueError lists them.
template <size_t N>
size_t read_name(const char* op, const char* name, py::handle object, const char* const (&names)[N]) {
  std::string listed;
  if (PyUnicode_Check(object.ptr())) {
    for (size_t i = 0; i < N; ++i) {
      if (PyUnicode_CompareWithASCIIString(object.ptr(), names[i]) == 0) return i;
    }
  }
  for (const char* known : names) listed += (listed.empty() ? "" : ", ") + std::string(known);
  throw py::value_error(std::string(op) + ": " + name + " must be one of " + listed + ", got " +
                        std::string(py::repr(object)));
}

// The names of an enum's values, in their order; specialised for each enum that is a field:
//   template <> struct NamesOf<TdLoss> { static constexpr auto& names = kTdLossNames; };
template <typename Enum>
struct NamesOf;

// One reader for each type that a field may have.
inline void read_field(const char* type, const char* name, py::handle given, double& to) {
  to = read_number(type, name, given);
}
inline void read_field(const char* type, const char* name, py::handle given, int64_t& to) {
  to = read_integer(type, name, given);
}
inline void read_field(const char* type, const char* name, py::handle given, bool& to) {
  py::detail::make_caster<bool> caster;
  if (!caster.load(given, false)) {
    throw py::type_error(std::string(type) + ": " + name + " must be a bool, got " +
                         Py_TYPE(given.ptr())->tp_name);
  }
  to = caster;
}
inline void read_field(const char*, const char*, py::handle given, py::object& to) {
  to = py::reinterpret_borrow<py::object>(given);
}
inline void read_field(const char* type, const char* name, py::handle given, std::vector<int64_t>& to) {
  to = read_sequence<int64_t, &read_integer>(type, name, given);
}
template <typename Value>
void read_field(const char* type, const char* name, py::handle given, std::optional<Value>& to) {
  if (given.is_none()) {
    to.reset();
  } else {
    read_field(type, name, given, to.emplace());
  }
}
template <typename Enum, size_t N = sizeof(NamesOf<Enum>::names) / sizeof(const char*)>
void read_field(const char* type, const char* name, py::handle given, Enum& to) {
  to = static_cast<Enum>(read_name(type, name, given, NamesOf<Enum>::names));
}

enum class Positional : bool { no, yes };

template <typename Struct>
class BoundStruct {
 public:
  BoundStruct(py::module_& m, const char* name, Positional positional) {
    table() = {name, positional == Positional::yes, {}};
    py::class_<Struct>(m, name).def(py::init(&make));
  }

  template <auto Member>
  BoundStruct& required(const char* name) {
    return add<Member>(name, true);
  }
  template <auto Member>
  BoundStruct& optional(const char* name) {
    return add<Member>(name, false);
  }

 private:
  struct Field {
    PyObject* name;  // interned, kept for as long as the process runs
    const char* text;
    bool required;
    void (*read)(const char* type, const char* name, py::handle given, Struct& to);
  };
  struct Table {
    const char* type = nullptr;
    bool positional = false;
    std::vector<Field> fields;
  };
  static Table& table() {
    static Table own;
    return own;
  }

  template <auto Member>
  BoundStruct& add(const char* name, bool required) {
    PyObject* interned = PyUnicode_InternFromString(name);
    if (interned == nullptr) throw py::error_already_set();
    table().fields.push_back(
        {interned, name, required, [](const char* type, const char* field, py::handle given, Struct& to) {
           read_field(type, field, given, to.*Member);
         }});
    return *this;
  }

  static Struct make(const py::args& args, const py::kwargs& kwargs) {
    const Table& t = table();
    Struct made{};
    const size_t n = args.size();
    if (n > (t.positional ? t.fields.size() : 0)) {
      throw py::type_error(std::string(t.type) + ": " +
                           (t.positional ? "at most " + std::to_string(t.fields.size()) : "no") +
                           " positional arguments, got " + std::to_string(n));
    }
    size_t used = 0;
    for (size_t i = 0; i < t.fields.size(); ++i) {
      const Field& field = t.fields[i];
      PyObject* given = PyDict_GetItemWithError(kwargs.ptr(), field.name);
      if (given != nullptr) {
        if (i < n) throw py::type_error(std::string(t.type) + ": " + field.text + " is given twice");
        ++used;
      } else if (i < n) {
        given = PyTuple_GET_ITEM(args.ptr(), static_cast<Py_ssize_t>(i));
      } else if (!field.required) {
        continue;
      } else {
        throw_unknown(t, kwargs);
        throw py::type_error(std::string(t.type) + ": " + field.text + " is missing");
      }
      field.read(t.type, field.text, given, made);
    }
    if (used < kwargs.size()) throw_unknown(t, kwargs);
    return made;
  }

  // Throws where a name is none of the fields'.
  static void throw_unknown(const Table& t, const py::kwargs& kwargs) {
    for (const auto& [key, value] : kwargs) {
      const auto name = py::cast<std::string>(key);
      bool known = false;
      std::string listed;
      for (const Field& field : t.fields) {
        known = known || name == field.text;
        listed += (listed.empty() ? "" : ", ") + std::string(field.text);
      }
      if (!known) {
        throw py::type_error(std::string(t.type) + ": there is no argument " + name + "; there are " +
                             listed);
      }
    }
  }
};

// A tuple whose items have names. One for each kind of result, made when the module is; it is never freed, as
// the module is not.
class NamedTuple {
 public:
  // name: with its module's.
  NamedTuple(py::module_& m, const char* name, std::initializer_list<const char*> fields) {
    for (const char* field : fields) fields_.push_back({field, nullptr});
    fields_.push_back({nullptr, nullptr});
    PyStructSequence_Desc description{name, nullptr, fields_.data(), static_cast<int>(fields.size())};
    type_ = PyStructSequence_NewType(&description);
    if (type_ == nullptr) throw py::error_already_set();
    m.add_object(std::string(name).substr(std::string(name).rfind('.') + 1).c_str(),
                 reinterpret_cast<PyObject*>(type_));
  }

  template <typename... Values>
  py::object operator()(Values&&... values) const {
    auto made = py::reinterpret_steal<py::object>(PyStructSequence_New(type_));
    if (!made) throw py::error_already_set();
    Py_ssize_t at = 0;
    (PyStructSequence_SetItem(made.ptr(), at++, py::cast(std::forward<Values>(values)).release().ptr()), ...);
    return made;
  }

 private:
  std::vector<PyStructSequence_Field> fields_;
  PyTypeObject* type_ = nullptr;
};

}  // namespace optix_fast
