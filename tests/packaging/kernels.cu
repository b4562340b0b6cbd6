// Every kernel for every type it is launched with, for compile checks without torch.

#include "quick_gelu.cuh"
#include "roi_align_max_backward.cuh"
#include "small_assignment.cuh"
#include "trajectory_attention.cuh"

namespace stoa {

#define STOA_KERNELS(T)                                                                    \
  template __global__ void batched_assignment_kernel<T>(const AssignmentArguments<T>);     \
  template __global__ void small_assignment_kernel<T>(const AssignmentArguments<T>);       \
  template __global__ void quick_gelu_kernel<T, false>(const QuickGeluArguments<T>);       \
  template __global__ void quick_gelu_kernel<T, true>(const QuickGeluArguments<T>);        \
  template __global__ void roi_align_max_forward<T, false>(const RoiAlignMaxArguments<T>); \
  template __global__ void roi_align_max_backward<T>(                                      \
      const RoiAlignMaxBackwardArguments<T>, RoiTile);                                     \
  STOA_ATTENTION(T, 32)                                                                    \
  STOA_ATTENTION(T, 64)                                                                    \
  STOA_ATTENTION(T, 128)                                                                   \
  STOA_ATTENTION(T, kAnyWidth)
#define STOA_ATTENTION(T, W)                                                                \
  template __global__ void trajectory_attention_forward<T, W>(const AttentionArguments<T>); \
  template __global__ void trajectory_attention_backward_q<T, W>(                           \
      const AttentionBackwardArguments<T>);                                                 \
  template __global__ void trajectory_attention_backward_kv<T, W>(                          \
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
