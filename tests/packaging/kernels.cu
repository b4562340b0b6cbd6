// Every kernel for every type it is launched with, for compile checks without torch.

#include "batched_assignment.cuh"
#include "quick_gelu.cuh"
#include "roi_align_max.cuh"
#include "trajectory_attention.cuh"

namespace stoa {

#define STOA_KERNELS(T)                                                                           \
  template __global__ void batched_assignment_kernel<T>(const AssignmentArguments<T>);            \
  template __global__ void quick_gelu_kernel<T, false>(const QuickGeluArguments<T>);              \
  template __global__ void quick_gelu_kernel<T, true>(const QuickGeluArguments<T>);               \
  template __global__ void roi_align_max_forward<T, false>(const RoiAlignMaxArguments<T>);        \
  template __global__ void roi_align_max_backward<T>(const RoiAlignMaxBackwardArguments<T>, int); \
  STOA_ATTENTION(T, 1)                                                                            \
  STOA_ATTENTION(T, 2)                                                                            \
  STOA_ATTENTION(T, 4)
#define STOA_ATTENTION(T, R)                                                                \
  template __global__ void trajectory_attention_forward<T, R>(const AttentionArguments<T>); \
  template __global__ void trajectory_attention_backward_q<T, R>(                           \
      const AttentionBackwardArguments<T>);                                                 \
  template __global__ void trajectory_attention_backward_kv<T, R>(                          \
      const AttentionBackwardArguments<T>);

STOA_KERNELS(float)
STOA_KERNELS(double)
STOA_KERNELS(__half)
STOA_KERNELS(__nv_bfloat16)
template __global__ void roi_align_max_forward<float, true>(const RoiAlignMaxArguments<float>);
template __global__ void roi_align_max_forward<__half, true>(const RoiAlignMaxArguments<__half>);
template __global__ void roi_align_max_forward<__nv_bfloat16, true>(
    const RoiAlignMaxArguments<__nv_bfloat16>);

}  // namespace stoa
