// The Python module stoa._C. Importing it registers the operators; it also tells how it was built.

#include "registration.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace {

// Values of setup.py: STOA_TORCH_VERSION, STOA_CXX_FLAGS and, in a CUDA build, STOA_CUDA_TOOLKIT
// and STOA_CUDA_ARCHITECTURES.
pybind11::dict build_info() {
  pybind11::dict info;
  info["torch"] = STOA_TORCH_VERSION;
#if defined(__clang__)
  info["compiler"] = "clang " __clang_version__;
#else
  info["compiler"] = "gcc " __VERSION__;
#endif
  info["cpp_standard"] = static_cast<long>(__cplusplus);
#ifdef STOA_CUDA_TOOLKIT
  info["cuda_toolkit"] = STOA_CUDA_TOOLKIT;
  info["cuda_architectures"] = STOA_CUDA_ARCHITECTURES;
#else
  info["cuda_toolkit"] = pybind11::none();
  info["cuda_architectures"] = "";
#endif
  info["flags"] = STOA_CXX_FLAGS;
  info["operators"] = stoa::operator_names();
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled operators of stoa, registered in torch.ops.stoa.";
  m.def("build_info", &build_info, "Versions and flags this module was built with.");
}
