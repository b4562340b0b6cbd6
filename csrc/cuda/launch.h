#pragma once

// What the launchers share: element types, and a launch with its shape and errors checked.

#include "device.cuh"

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

namespace stoa {

template <typename T>
struct DeviceType {
  using type = T;
};
template <>
struct DeviceType<at::Half> {
  using type = __half;
};
template <>
struct DeviceType<at::BFloat16> {
  using type = __nv_bfloat16;
};

template <typename T>
const auto* device_data(const at::Tensor& tensor) {
  return reinterpret_cast<const typename DeviceType<T>::type*>(tensor.const_data_ptr<T>());
}

template <typename T>
auto* mutable_device_data(at::Tensor& tensor) {
  return reinterpret_cast<typename DeviceType<T>::type*>(tensor.mutable_data_ptr<T>());
}

template <typename... Parameters, typename... Arguments>
void launch(
    void (*kernel)(Parameters...), const LaunchShape& shape, const Arguments&... arguments) {
  if (shape.grid_x == 0 || shape.grid_y == 0 || shape.grid_z == 0) {
    return;
  }
  TORCH_CHECK_VALUE(
      shape.grid_x < (int64_t{1} << 31) && shape.grid_y < 65536 && shape.grid_z < 65536,
      "too large for one launch: a grid of ",
      shape.grid_x,
      " x ",
      shape.grid_y,
      " x ",
      shape.grid_z,
      " blocks; split the batch");
  const dim3 grid(
      static_cast<unsigned>(shape.grid_x),
      static_cast<unsigned>(shape.grid_y),
      static_cast<unsigned>(shape.grid_z));
  kernel<<<grid, shape.block, shape.shared_bytes, c10::cuda::getCurrentCUDAStream()>>>(
      arguments...);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace stoa
