// The part of DLPack's C ABI that this module uses, declared by hand so that no torch header is needed.
//
// torch.Tensor.__dlpack_c_exchange_api__ (torch 2.10 and newer) is a capsule that holds a pointer to an
// ExchangeApi. The layout below is that of DLPack major version 1; tensor.cpp compares the version found at
// run time before it touches any other field. Source of the layout: the DLPack specification, version 1.3.
#pragma once

#include <cstddef>
#include <cstdint>

namespace optix_fast::dlpack {

constexpr uint32_t kMajorVersion = 1;
constexpr const char* kCapsuleName = "dlpack_exchange_api";

enum DeviceType : int32_t { kCpu = 1, kCuda = 2, kCudaHost = 3 };
enum TypeCode : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kComplex = 5, kBool = 6 };

struct Version {
  uint32_t major;
  uint32_t minor;
};

struct Device {
  int32_t type;
  int32_t id;
};

struct DataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; may be null when ndim is 0
  uint64_t byte_offset;
};

struct ExchangeApiHeader {
  Version version;
  ExchangeApiHeader* previous;  // an older table of the same producer, or null
};

struct ExchangeApi {
  ExchangeApiHeader header;
  // Owning exchange: not used here, present for the layout only.
  void (*managed_tensor_allocator)();
  void (*managed_tensor_from_py_object_no_sync)();
  void (*managed_tensor_to_py_object_no_sync)();
  // Fills a non-owning view; may be null. 0, or -1 with a Python exception set.
  int (*dltensor_from_py_object_no_sync)(void* py_object, Tensor* out);
  // The stream on which the producer currently enqueues work of this device. 0, or -1 with an exception set.
  int (*current_work_stream)(int32_t device_type, int32_t device_id, void** out);
};

static_assert(sizeof(void*) == 8, "the declared layout is the 64-bit one");
static_assert(sizeof(Version) == 8 && sizeof(Device) == 8 && sizeof(DataType) == 4);
static_assert(sizeof(Tensor) == 48);
static_assert(offsetof(Tensor, device) == 8 && offsetof(Tensor, ndim) == 16 && offsetof(Tensor, dtype) == 20);
static_assert(offsetof(Tensor, shape) == 24 && offsetof(Tensor, strides) == 32);
static_assert(offsetof(Tensor, byte_offset) == 40);
static_assert(sizeof(ExchangeApiHeader) == 16 && sizeof(ExchangeApi) == 56);
static_assert(offsetof(ExchangeApi, dltensor_from_py_object_no_sync) == 40);
static_assert(offsetof(ExchangeApi, current_work_stream) == 48);

}  // namespace optix_fast::dlpack
