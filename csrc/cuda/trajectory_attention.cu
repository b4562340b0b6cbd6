#include "../trajectory_attention_check.h"
#include "launch.h"
#include "trajectory_attention.cuh"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <tuple>

namespace stoa {
namespace {

at::Tensor rows_side_by_side(const at::Tensor& x) {
  return x.stride(3) == 1 ? x : x.contiguous();
}

template <typename scalar_t>
auto rows_of(const at::Tensor& x) {
  return HeadRows<const typename DeviceType<scalar_t>::type>{
      device_data<scalar_t>(x), x.stride(0), x.stride(1), x.stride(2)};
}

template <typename scalar_t>
auto mutable_rows_of(at::Tensor& x) {
  return HeadRows<typename DeviceType<scalar_t>::type>{
      mutable_device_data<scalar_t>(x), x.stride(0), x.stride(1), x.stride(2)};
}

// Calls `body` with the elements of a row that a lane holds, as a constant.
template <typename Body>
void for_head_dim(int64_t D, const Body& body) {
  if (D <= 32) {
    body(std::integral_constant<int, 1>());
  } else if (D <= 64) {
    body(std::integral_constant<int, 2>());
  } else {
    static_assert(kMaxHeadDim == 128);
    body(std::integral_constant<int, 4>());
  }
}

std::tuple<at::Tensor, at::Tensor> trajectory_attention_cuda(
    const at::Tensor& given_q,
    const at::Tensor& given_k,
    const at::Tensor& given_v,
    const at::Tensor& given_labels,
    const at::Tensor& given_q_labels) {
  check_attention_forward(given_q, given_k, given_v, given_labels, given_q_labels);
  const c10::cuda::CUDAGuard guard(given_q.device());
  const at::Tensor q = rows_side_by_side(given_q), k = rows_side_by_side(given_k),
                   v = rows_side_by_side(given_v);
  const at::Tensor labels = given_labels.contiguous(), q_labels = given_q_labels.contiguous();
  const AttentionSizes sizes{
      q.size(0), q.size(1), q.size(2), k.size(2), static_cast<int>(q.size(3))};
  at::Tensor out = empty_heads_inside(q);
  at::Tensor logsumexp =
      at::empty({sizes.B, sizes.H, sizes.Q}, q.options().dtype(at::toOpMathType(q.scalar_type())));
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, q.scalar_type(), "trajectory_attention", [&] {
        using device_t = typename DeviceType<scalar_t>::type;
        using T = typename Accumulator<device_t>::type;
        const AttentionArguments<device_t> args{
            sizes,
            labels.const_data_ptr<int64_t>(),
            q_labels.const_data_ptr<int64_t>(),
            rows_of<scalar_t>(q),
            rows_of<scalar_t>(k),
            rows_of<scalar_t>(v),
            mutable_rows_of<scalar_t>(out),
            logsumexp.mutable_data_ptr<T>()};
        for_head_dim(sizes.D, [&](auto R) {
          launch(&trajectory_attention_forward<device_t, R>, attention_shape(sizes, sizes.Q), args);
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
  const at::Tensor q = rows_side_by_side(given_q), k = rows_side_by_side(given_k),
                   v = rows_side_by_side(given_v);
  const at::Tensor out = rows_side_by_side(given_out), grad = rows_side_by_side(given_grad);
  const at::Tensor labels = given_labels.contiguous(), q_labels = given_q_labels.contiguous();
  const at::Tensor logsumexp = given_logsumexp.contiguous();
  const AttentionSizes sizes{
      q.size(0), q.size(1), q.size(2), k.size(2), static_cast<int>(q.size(3))};
  at::Tensor grad_q = empty_heads_inside(q), grad_k = empty_heads_inside(k),
             grad_v = empty_heads_inside(v);
  at::Tensor delta = at::empty(logsumexp.sizes(), logsumexp.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, q.scalar_type(), "trajectory_attention_backward", [&] {
        using device_t = typename DeviceType<scalar_t>::type;
        using T = typename Accumulator<device_t>::type;
        const AttentionBackwardArguments<device_t> args{
            sizes,
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
        for_head_dim(sizes.D, [&](auto R) {
          launch(
              &trajectory_attention_backward_q<device_t, R>, attention_shape(sizes, sizes.Q), args);
          launch(
              &trajectory_attention_backward_kv<device_t, R>,
              attention_shape(sizes, sizes.S),
              args);
        });
      });
  return {grad_q, grad_k, grad_v};
}

}  // namespace

TORCH_LIBRARY_IMPL(stoa, CUDA, m) {
  m.impl("trajectory_attention", &trajectory_attention_cuda);
  m.impl("trajectory_attention_backward", &trajectory_attention_backward_cuda);
}

}  // namespace stoa
