#pragma once

// QuickGELU and its gradient, one pass over memory each: every thread moves 16 bytes at a time.

#include "device.cuh"

namespace stoa {

inline constexpr int kQuickGeluBlock = 256;

template <typename T>
struct QuickGeluArguments {
  const T* grad;  // null in the forward
  const T* x;
  T* out;
  int64_t count;
  bool aligned;  // all pointers to 16 bytes
};

template <typename T>
LaunchShape quick_gelu_shape(int64_t count) {
  constexpr int64_t kPerBlock = int64_t{kQuickGeluBlock} * Pack<T>::kSize;
  return {(count + kPerBlock - 1) / kPerBlock, 1, 1, kQuickGeluBlock, 0};
}

__device__ __forceinline__ float exponential_of(float x) {
  return expf(x);
}
__device__ __forceinline__ double exponential_of(double x) {
  return exp(x);
}

template <typename T, bool kBackward>
__device__ __forceinline__ T quick_gelu_of(T grad, T x) {
  using A = typename Accumulator<T>::type;
  const A at = accumulate_as(x), z = A(1.702) * at, s = A(1) / (A(1) + exponential_of(-z));
  if constexpr (kBackward) {
    return Store<T>::from(accumulate_as(grad) * s * (A(1) + z * (A(1) - s)));
  } else {
    return Store<T>::from(at * s);
  }
}

template <typename T, bool kBackward>
__global__ void quick_gelu_kernel(const QuickGeluArguments<T> args) {
  constexpr int kSize = Pack<T>::kSize;
  const int64_t first = (int64_t{blockIdx.x} * kQuickGeluBlock + threadIdx.x) * kSize;
  if (args.aligned && first + kSize <= args.count) {
    const Pack<T> x = *reinterpret_cast<const Pack<T>*>(args.x + first);
    const Pack<T> grad =
        kBackward ? *reinterpret_cast<const Pack<T>*>(args.grad + first) : Pack<T>{};
    Pack<T> out;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      out.values[i] = quick_gelu_of<T, kBackward>(grad.values[i], x.values[i]);
    }
    *reinterpret_cast<Pack<T>*>(args.out + first) = out;
    return;
  }
  for (int64_t i = first; i < first + kSize && i < args.count; ++i) {
    args.out[i] = quick_gelu_of<T, kBackward>(kBackward ? args.grad[i] : args.x[i], args.x[i]);
  }
}

}  // namespace stoa
