// The module optix_fast._C: one bind_<op> per row, and what this build is made of.
#include <pybind11/pybind11.h>

#include "build_facts.h"
#include "simd_path.h"
#include "tensor.h"

namespace optix_fast {

#define OPTIX_FAST_OP(name) void bind_##name(py::module_& m);
#include "ops.inc"  // written by CMakeLists.txt, one line for each op
#undef OPTIX_FAST_OP

namespace {

py::dict build_info() {
  py::list compiled;
  for (SimdPath path : {SimdPath::portable, SimdPath::avx2, SimdPath::avx512}) {
    if (simd_path_compiled(path)) compiled.append(simd_path_name(path));
  }
  py::dict info;
  info["version"] = build_facts::kVersion;
  info["compiler"] = build_facts::kCompiler;
  info["compiler_flags"] = build_facts::kCompilerFlags;
  info["simd_compiled"] = compiled;
  info["simd"] = simd_path_name(simd_path());
#ifdef OPTIX_FAST_HAS_CUDA
  info["cuda"] = true;
  info["cuda_architectures"] = build_facts::kCudaArchitectures;
  info["cuda_toolkit"] = build_facts::kCudaToolkit;
#else
  info["cuda"] = false;
  info["cuda_architectures"] = py::none();
  info["cuda_toolkit"] = py::none();
#endif
  const dlpack::Version dlpack = exchange_api_version();
  info["dlpack"] = std::to_string(dlpack.major) + "." + std::to_string(dlpack.minor);
  return info;
}

}  // namespace
}  // namespace optix_fast

PYBIND11_MODULE(_C, m) {
  using namespace optix_fast;
  m.doc() = "The compiled core of optix_fast; use the public functions in optix_fast.ops.";
  m.def("build_info", &build_info);
  m.def("select_simd", &select_simd);  // std::invalid_argument becomes ValueError
#define OPTIX_FAST_OP(name) bind_##name(m);
#include "ops.inc"
#undef OPTIX_FAST_OP
}
