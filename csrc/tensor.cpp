#include "tensor.h"

#include <sstream>

namespace optix_fast {
namespace {

// What the module needs of torch, held for the life of the process. Fetched by the first tensor that crosses,
// not by the import of the module: `import optix_fast` must not import torch.
struct Torch {
  const dlpack::ExchangeApi* api = nullptr;
  dlpack::Version version{0, 0};
  PyObject* tensor_type = nullptr;  // torch.Tensor
  PyObject* is_neg = nullptr;       // the unbound torch.Tensor.is_neg
  PyObject* empty_like = nullptr;   // torch.empty_like
};
Torch g_torch;

void fetch_torch();

// Called with the interpreter lock held, as everything here.
const Torch& torch() {
  if (g_torch.api == nullptr) fetch_torch();
  return g_torch;
}

DType dtype_of(dlpack::DataType t) {
  if (t.lanes != 1) return DType::other;
  if (t.code == dlpack::kFloat && t.bits == 32) return DType::f32;
  if (t.code == dlpack::kFloat && t.bits == 64) return DType::f64;
  if (t.code == dlpack::kInt && t.bits == 64) return DType::i64;
  if (t.code == dlpack::kInt && t.bits == 32) return DType::i32;
  if (t.code == dlpack::kUInt && t.bits == 8) return DType::u8;
  if (t.code == dlpack::kBool && t.bits == 8) return DType::b8;
  return DType::other;
}

std::string shape_text(const int64_t* shape, int32_t ndim) {
  std::ostringstream out;
  out << '[';
  for (int32_t i = 0; i < ndim; ++i) out << (i ? ", " : "") << shape[i];
  out << ']';
  return out.str();
}

std::string device_text(dlpack::Device device) {
  if (device.type == dlpack::kCpu) return "cpu";
  if (device.type == dlpack::kCuda) return "cuda:" + std::to_string(device.id);
  return "device type " + std::to_string(device.type);
}

// torch's own word for the type, also for the types that no op takes.
std::string torch_dtype_text(py::handle tensor) {
  std::string text = py::str(tensor.attr("dtype"));
  const auto dot = text.rfind('.');
  return dot == std::string::npos ? text : text.substr(dot + 1);
}

bool is_contiguous(const dlpack::Tensor& t) {
  int64_t expected = 1;
  for (int32_t i = t.ndim - 1; i >= 0; --i) {
    if (t.shape[i] == 0) return true;
  }
  for (int32_t i = t.ndim - 1; i >= 0; --i) {
    if (t.shape[i] != 1 && t.strides != nullptr && t.strides[i] != expected) return false;
    expected *= t.shape[i];
  }
  return true;
}

[[noreturn]] void fail(const char* op, const char* name, const std::string& what) {
  throw py::value_error(std::string(op) + ": " + name + " " + what);
}

// What the exchange call reported, as a ValueError that names the argument.
[[noreturn]] void fail_with_python_error(const char* op, const char* name, py::handle object) {
  py::error_already_set cause;
  std::string text = py::str(cause.value());
  const auto line_end = text.find('\n');
  if (line_end != std::string::npos) text.resize(line_end);
  fail(op, name,
       "must be a dense tensor with memory on cpu or cuda, got " +
           std::string(Py_TYPE(object.ptr())->tp_name) + " (" + text + ")");
}

dlpack::Tensor exchange(const char* op, const char* name, py::handle object) {
  const Torch& torch = optix_fast::torch();
  if (PyObject_IsInstance(object.ptr(), torch.tensor_type) != 1) {
    PyErr_Clear();
    throw py::type_error(std::string(op) + ": " + name + " must be a torch.Tensor, got " +
                         Py_TYPE(object.ptr())->tp_name);
  }
  dlpack::Tensor t{};
  if (torch.api->dltensor_from_py_object_no_sync(object.ptr(), &t) != 0)
    fail_with_python_error(op, name, object);
  if (t.data == nullptr) {
    int64_t numel = 1;
    for (int32_t i = 0; i < t.ndim; ++i) numel *= t.shape[i];
    if (numel != 0) fail(op, name, "must be a tensor with memory, got one without (a FakeTensor?)");
  }
  // The exchange drops the lazy negation bit, which would silently flip the sign of every element. (Its
  // companion, lazy conjugation, exists for complex numbers only, and those fail the type check.)
  if (t.dtype.code == dlpack::kFloat) {
    PyObject* negated = PyObject_CallOneArg(torch.is_neg, object.ptr());
    if (negated == nullptr) throw py::error_already_set();
    Py_DECREF(negated);
    if (negated == Py_True) {
      fail(op, name, "must not be a lazily negated view; call .resolve_neg() on it first");
    }
  }
  return t;
}

TensorView view_of(const dlpack::Tensor& t) {
  TensorView view;
  view.data = static_cast<char*>(t.data) + t.byte_offset;
  view.dtype = dtype_of(t.dtype);
  view.ndim = t.ndim;
  view.shape = t.shape;
  view.device = t.device;
  return view;
}

std::string strides_text(const dlpack::Tensor& t) {
  return "one with strides " + shape_text(t.strides, t.ndim);
}

}  // namespace

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "float32";
    case DType::f64:
      return "float64";
    case DType::i32:
      return "int32";
    case DType::i64:
      return "int64";
    case DType::u8:
      return "uint8";
    case DType::u32:
      return "uint32";
    case DType::b8:
      return "bool";
    default:
      return "another type";
  }
}

TensorView TensorReader::first(py::handle object, const char* name, std::initializer_list<DType> dtypes,
                               const char* dims, std::initializer_list<int32_t> ndims) {
  const dlpack::Tensor t = exchange(op_, name, object);
  const TensorView view = view_of(t);
  bool dtype_ok = false;
  for (DType d : dtypes) dtype_ok = dtype_ok || d == view.dtype;
  bool ndim_ok = false;
  for (int32_t n : ndims) ndim_ok = ndim_ok || n == view.ndim;
  if (!dtype_ok || !ndim_ok) {
    std::string wanted;
    for (DType d : dtypes) wanted += (wanted.empty() ? "" : " or ") + std::string(dtype_name(d));
    fail(op_, name,
         "must be " + wanted + " " + dims + ", got " + torch_dtype_text(object) + " " +
             shape_text(t.shape, t.ndim));
  }
  if (!is_contiguous(t)) fail(op_, name, "must be contiguous, got " + strides_text(t));
  if (!view.is_cpu() && !view.is_cuda()) {
    fail(op_, name, "must be on cpu or cuda, got " + device_text(view.device));
  }
  device_ = view.device;
  return view;
}

TensorView TensorReader::read(py::handle object, const char* name, DType dtype, const char* dims,
                              const int64_t* shape, int32_t ndim) {
  const dlpack::Tensor t = exchange(op_, name, object);
  const TensorView view = view_of(t);
  bool same_shape = view.ndim == ndim;
  for (int32_t i = 0; same_shape && i < ndim; ++i) same_shape = view.shape[i] == shape[i];
  const bool same_device = view.device.type == device_.type && view.device.id == device_.id;
  if (view.dtype != dtype || !same_shape || !same_device) {
    std::string got = torch_dtype_text(object) + " " + shape_text(t.shape, t.ndim);
    if (!same_device) got += " on " + device_text(view.device);
    fail(op_, name,
         std::string("must be ") + dtype_name(dtype) + " " + dims + " = " + shape_text(shape, ndim) + " on " +
             device_text(device_) + ", got " + got);
  }
  if (!is_contiguous(t)) fail(op_, name, "must be contiguous, got " + strides_text(t));
  return view;
}

TensorView TensorReader::read_vector_or_scalar(py::handle object, const char* name, DType dtype,
                                               const char* dims, int64_t n) {
  const bool scalar =
      PyObject_IsInstance(object.ptr(), torch().tensor_type) == 1 && py::cast<int>(object.attr("ndim")) == 0;
  return read(object, name, dtype, scalar ? "[]" : dims, &n, scalar ? 0 : 1);
}

void* TensorReader::cuda_stream() const {
  void* stream = nullptr;
  if (torch().api->current_work_stream(device_.type, device_.id, &stream) != 0) throw py::error_already_set();
  return stream;
}

namespace {

void fetch_torch() {
  Torch found;
  const py::module_ module = py::module_::import("torch");
  const py::object tensor_type = module.attr("Tensor");
  if (!py::hasattr(tensor_type, "__dlpack_c_exchange_api__")) {
    throw py::import_error("torch has no DLPack exchange API; torch 2.10 or newer is needed");
  }
  const py::object capsule = tensor_type.attr("__dlpack_c_exchange_api__");
  auto* header =
      static_cast<dlpack::ExchangeApiHeader*>(PyCapsule_GetPointer(capsule.ptr(), dlpack::kCapsuleName));
  if (header == nullptr) throw py::error_already_set();
  const uint32_t newest = header->version.major;
  while (header != nullptr && header->version.major != dlpack::kMajorVersion) header = header->previous;
  if (header == nullptr) {
    throw py::import_error("torch speaks DLPack version " + std::to_string(newest) +
                           ", this build of optix_fast version " + std::to_string(dlpack::kMajorVersion));
  }
  found.version = header->version;
  found.api = reinterpret_cast<const dlpack::ExchangeApi*>(header);
  if (found.api->dltensor_from_py_object_no_sync == nullptr || found.api->current_work_stream == nullptr) {
    throw py::import_error("torch's DLPack exchange API lacks the non-owning exchange");
  }
  const auto keep = [](py::object object) { return object.release().ptr(); };
  found.tensor_type = keep(tensor_type);
  found.is_neg = keep(tensor_type.attr("is_neg"));
  found.empty_like = keep(module.attr("empty_like"));
  g_torch = found;
}

}  // namespace

dlpack::Version exchange_api_version() { return torch().version; }

py::object empty_like(py::handle tensor) {
  PyObject* made = PyObject_CallOneArg(torch().empty_like, tensor.ptr());
  if (made == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(made);
}

void* data_of(const py::object& fresh) {
  dlpack::Tensor t{};
  if (torch().api->dltensor_from_py_object_no_sync(fresh.ptr(), &t) != 0) throw py::error_already_set();
  return static_cast<char*>(t.data) + t.byte_offset;
}

void* memory_of(py::handle known, DType dtype, const int64_t* shape, int32_t ndim) {
  dlpack::Tensor t{};
  if (torch().api->dltensor_from_py_object_no_sync(known.ptr(), &t) != 0) {
    PyErr_Clear();
    return nullptr;
  }
  bool same =
      dtype_of(t.dtype) == dtype && t.ndim == ndim && t.device.type == dlpack::kCpu && is_contiguous(t);
  for (int32_t i = 0; same && i < ndim; ++i) same = t.shape[i] == shape[i];
  return same ? static_cast<char*>(t.data) + t.byte_offset : nullptr;
}

ArrayView::ArrayView(const char* op, py::handle object, const char* name, DType dtype, bool writable) {
  if (!PyObject_CheckBuffer(object.ptr())) {
    throw py::type_error(std::string(op) + ": " + name + " must be an array of " + dtype_name(dtype) +
                         ", got " + Py_TYPE(object.ptr())->tp_name);
  }
  const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
  if (PyObject_GetBuffer(object.ptr(), &buffer_, flags) != 0) {
    PyErr_Clear();
    fail(op, name, std::string("must be a contiguous ") + (writable ? "writable " : "") + "array");
  }
  const char code = buffer_.format == nullptr ? 'B' : buffer_.format[0];
  DType found = DType::other;
  if (code == 'f') found = DType::f32;
  if (code == 'd') found = DType::f64;
  if ((code == 'l' || code == 'q') && buffer_.itemsize == 8) found = DType::i64;
  if (code == 'i' && buffer_.itemsize == 4) found = DType::i32;
  if ((code == 'I' || code == 'L') && buffer_.itemsize == 4) found = DType::u32;
  if (code == '?') found = DType::b8;
  if (code == 'B') found = DType::u8;
  if (found != dtype) {
    const std::string format = buffer_.format == nullptr ? "bytes" : buffer_.format;
    PyBuffer_Release(&buffer_);
    fail(op, name, std::string("must be ") + dtype_name(dtype) + ", got an array of format '" + format + "'");
  }
  size_ = buffer_.len / buffer_.itemsize;
}

ArrayView::~ArrayView() { PyBuffer_Release(&buffer_); }

}  // namespace optix_fast
