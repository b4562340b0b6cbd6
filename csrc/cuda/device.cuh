#pragma once

// What kernels need beyond CUDA C++ itself: element types, and shared memory handed out array by
// array. Free of torch, so that the same source compiles for the host against tests/simt, where
// kernels are run thread by thread.

#if defined(__CUDACC_RTC__)
// NVRTC reads no standard headers and knows none of these builtins.
typedef short int16_t;
typedef long long int64_t;
namespace std {
using ::size_t;
}
#define __builtin_huge_valf() __int_as_float(0x7f800000)
#define __builtin_huge_val() __longlong_as_double(0x7ff0000000000000)
#else
#include <cstddef>
#include <cstdint>
#endif

#if defined(__CUDACC__) || defined(__CUDA__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#else
#include "simt.h"
#endif

namespace stoa {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kFullWarp = 0xffffffffu;
// More needs an opt-in for each kernel, and costs occupancy.
inline constexpr std::size_t kMaxSharedBytes = 48 * 1024;

// Grid, block and dynamic shared memory of a launch.
struct LaunchShape {
  int64_t grid_x;
  int64_t grid_y;
  int64_t grid_z;
  int block;
  std::size_t shared_bytes;
};

// Adds up what a kernel asks of SharedMemory.
struct SharedPlan {
  std::size_t bytes = 0;

  template <typename T>
  void array(std::size_t count) {
    bytes += (count * sizeof(T) + 15) / 16 * 16;
  }
};

#if defined(__CUDACC__) || defined(__CUDA__)
// The dynamic shared memory of the block; every thread asks for the same arrays in the same order.
class SharedMemory {
 public:
  template <typename T>
  __device__ T* array(std::size_t count) {
    extern __shared__ __align__(16) unsigned char memory[];
    T* result = reinterpret_cast<T*>(memory + plan_.bytes);
    plan_.bytes += (count * sizeof(T) + 15) / 16 * 16;
    return result;
  }

 private:
  SharedPlan plan_;
};
#endif

// Elements that one load brings.
template <typename T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  T values[kSize];
};

// Half precision is computed in float.
template <typename T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};

__device__ __forceinline__ float accumulate_as(float x) {
  return x;
}
__device__ __forceinline__ double accumulate_as(double x) {
  return x;
}
__device__ __forceinline__ float accumulate_as(__half x) {
  return __half2float(x);
}
__device__ __forceinline__ float accumulate_as(__nv_bfloat16 x) {
  return __bfloat162float(x);
}

template <typename T>
struct Store;
template <>
struct Store<float> {
  static __device__ __forceinline__ float from(float x) { return x; }
};
template <>
struct Store<double> {
  static __device__ __forceinline__ double from(double x) { return x; }
};
template <>
struct Store<__half> {
  static __device__ __forceinline__ __half from(float x) { return __float2half(x); }
};
template <>
struct Store<__nv_bfloat16> {
  static __device__ __forceinline__ __nv_bfloat16 from(float x) { return __float2bfloat16(x); }
};

template <typename T>
__device__ __forceinline__ T infinity();
template <>
__device__ __forceinline__ float infinity<float>() {
  return __builtin_huge_valf();
}
template <>
__device__ __forceinline__ double infinity<double>() {
  return __builtin_huge_val();
}

// The sum over the kLanes lanes side by side, in each of them, always in the same order.
template <int kLanes, typename T>
__device__ __forceinline__ T lanes_sum(T x) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    x += __shfl_xor_sync(kFullWarp, x, distance);
  }
  return x;
}

__device__ __forceinline__ unsigned warp_min_by_shuffles(unsigned x) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    const unsigned other = __shfl_xor_sync(kFullWarp, x, distance);
    x = other < x ? other : x;
  }
  return x;
}

// The least of a warp, in every lane; one instruction from sm_80 on.
__device__ __forceinline__ unsigned warp_min(unsigned x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  return warp_min_by_shuffles(x);
#else
  return __reduce_min_sync(kFullWarp, x);
#endif
}

}  // namespace stoa
