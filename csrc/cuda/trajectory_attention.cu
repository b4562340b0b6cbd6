#include "../kernels.h"
#include "../trajectory_attention_check.h"
#include "launch.h"
#include "trajectory_attention.cuh"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include <cmath>
#include <initializer_list>
#include <limits>
#include <tuple>
#include <type_traits>

namespace stoa {
namespace {

// `x`, or a copy where the kernels cannot read it: elements of a row apart, or rows by 4 GB.
at::Tensor readable(const at::Tensor& x) {
  const bool is =
      x.stride(3) == 1 && x.stride(2) <= std::numeric_limits<unsigned>::max() / x.element_size();
  return is ? x : x.contiguous();
}

template <typename scalar_t>
auto rows_of(const at::Tensor& x) {
  return HeadRows<const typename DeviceType<scalar_t>::type>{
      device_data<scalar_t>(x),
      x.stride(0),
      x.stride(1),
      static_cast<unsigned>(x.stride(2) * sizeof(scalar_t))};
}

template <typename scalar_t>
auto mutable_rows_of(at::Tensor& x) {
  return HeadRows<typename DeviceType<scalar_t>::type>{
      mutable_device_data<scalar_t>(x),
      x.stride(0),
      x.stride(1),
      static_cast<unsigned>(x.stride(2) * sizeof(scalar_t))};
}

AttentionSizes sizes_of(const at::Tensor& q, const at::Tensor& k) {
  for (const int64_t size : {q.size(1), q.size(2), k.size(2)}) {
    TORCH_CHECK_VALUE(
        size <= std::numeric_limits<int>::max(),
        "q and k must have fewer than 2^31 heads and rows, got ",
        q.sizes(),
        " and ",
        k.sizes());
  }
  return {
      q.size(0),
      static_cast<int>(q.size(1)),
      static_cast<int>(q.size(2)),
      static_cast<int>(k.size(2)),
      static_cast<int>(q.size(3))};
}

bool all_aligned(std::initializer_list<at::Tensor> tensors) {
  for (const at::Tensor& x : tensors) {
    const int64_t bytes = x.element_size();
    if (reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 != 0 ||
        x.stride(0) * bytes % 16 != 0 || x.stride(1) * bytes % 16 != 0 ||
        x.stride(2) * bytes % 16 != 0) {
      return false;
    }
  }
  return true;
}

// Calls `body` with the width to compile for, as a constant.
template <typename Body>
void for_head_width(int D, bool aligned, const Body& body) {
  static_assert(kMaxHeadDim == kMaxWidth);
  if (aligned && D == 32) {
    body(std::integral_constant<int, 32>());
  } else if (aligned && D == 64) {
    body(std::integral_constant<int, 64>());
  } else if (aligned && D == 128) {
    body(std::integral_constant<int, 128>());
  } else {
    body(std::integral_constant<int, kAnyWidth>());
  }
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> trajectory_attention_cuda(
    const at::Tensor& given_q,
    const at::Tensor& given_k,
    const at::Tensor& given_v,
    const at::Tensor& given_labels,
    const at::Tensor& given_q_labels) {
  check_attention_forward(given_q, given_k, given_v, given_labels, given_q_labels);
  const c10::cuda::CUDAGuard guard(given_q.device());
  const at::Tensor q = readable(given_q), k = readable(given_k), v = readable(given_v);
  const at::Tensor labels = given_labels.contiguous(), q_labels = given_q_labels.contiguous();
  const AttentionSizes sizes = sizes_of(q, k);
  at::Tensor out = empty_heads_inside(q);
  at::Tensor logsumexp =
      at::empty({sizes.B, sizes.H, sizes.Q}, q.options().dtype(at::toOpMathType(q.scalar_type())));
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, q.scalar_type(), "trajectory_attention", [&] {
        using device_t = typename DeviceType<scalar_t>::type;
        using T = typename Accumulator<device_t>::type;
        const AttentionArguments<device_t> args{
            sizes,
            T(1) / std::sqrt(T(sizes.D)),
            labels.const_data_ptr<int64_t>(),
            q_labels.const_data_ptr<int64_t>(),
            rows_of<scalar_t>(q),
            rows_of<scalar_t>(k),
            rows_of<scalar_t>(v),
            mutable_rows_of<scalar_t>(out),
            logsumexp.mutable_data_ptr<T>()};
        for_head_width(sizes.D, all_aligned({q, k, v, out}), [&](auto width) {
          launch(
              &trajectory_attention_forward<device_t, width>,
              attention_shape<device_t, width>(sizes, sizes.Q),
              args);
        });
      });
  return {out, logsumexp};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> trajectory_attention_backward_cuda(
    const at::Tensor& given_grad,
    const at::Tensor& given_q,
    const at::Tensor& given_k,
    const at::Tensor& given_v,
    const at::Tensor& given_labels,
    const at::Tensor& given_q_labels,
    const at::Tensor& given_out,
    const at::Tensor& given_logsumexp) {
  check_attention_forward(given_q, given_k, given_v, given_labels, given_q_labels);
  check_attention_backward(given_grad, given_q, given_out, given_logsumexp);
  const c10::cuda::CUDAGuard guard(given_q.device());
  const at::Tensor q = readable(given_q), k = readable(given_k), v = readable(given_v);
  const at::Tensor out = readable(given_out), grad = readable(given_grad);
  const at::Tensor labels = given_labels.contiguous(), q_labels = given_q_labels.contiguous();
  const at::Tensor logsumexp = given_logsumexp.contiguous();
  const AttentionSizes sizes = sizes_of(q, k);
  at::Tensor grad_q = empty_heads_inside(q), grad_k = empty_heads_inside(k),
             grad_v = empty_heads_inside(v);
  at::Tensor delta = at::empty(logsumexp.sizes(), logsumexp.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, q.scalar_type(), "trajectory_attention_backward", [&] {
        using device_t = typename DeviceType<scalar_t>::type;
        using T = typename Accumulator<device_t>::type;
        const AttentionBackwardArguments<device_t> args{
            sizes,
            T(1) / std::sqrt(T(sizes.D)),
            labels.const_data_ptr<int64_t>(),
            q_labels.const_data_ptr<int64_t>(),
            rows_of<scalar_t>(q),
            rows_of<scalar_t>(k),
            rows_of<scalar_t>(v),
            rows_of<scalar_t>(out),
            rows_of<scalar_t>(grad),
            logsumexp.const_data_ptr<T>(),
            delta.mutable_data_ptr<T>(),
            mutable_rows_of<scalar_t>(grad_q),
            mutable_rows_of<scalar_t>(grad_k),
            mutable_rows_of<scalar_t>(grad_v)};
        const bool aligned = all_aligned({q, k, v, out, grad, grad_q, grad_k, grad_v});
        for_head_width(sizes.D, aligned, [&](auto width) {
          launch(
              &trajectory_attention_backward_q<device_t, width>,
              attention_shape<device_t, width>(sizes, sizes.Q),
              args);
          launch(
              &trajectory_attention_backward_kv<device_t, width>,
              attention_shape<device_t, width>(sizes, sizes.S),
              args);
        });
      });
  return {grad_q, grad_k, grad_v};
}

}  // namespace stoa
