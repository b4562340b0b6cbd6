#pragma once

// What implements the operators, a function for each and each device. The schemas say what they
// take.

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace stoa {

std::tuple<at::Tensor, at::Tensor> batched_assignment_cpu(
    const at::Tensor& cost,
    const std::optional<at::Tensor>& num_rows,
    const std::optional<at::Tensor>& num_cols);

at::Tensor quick_gelu_cpu(const at::Tensor& given);

at::Tensor quick_gelu_backward_cpu(const at::Tensor& given_grad, const at::Tensor& given);

std::tuple<at::Tensor, at::Tensor> roi_align_max_cpu(
    const at::Tensor& tokens,
    const at::Tensor& boxes,
    const at::Tensor& valid,
    at::IntArrayRef grid_hw,
    at::IntArrayRef output_size);

at::Tensor roi_align_max_backward_cpu(
    const at::Tensor& grad,
    const at::Tensor& winner,
    const at::Tensor& boxes,
    at::IntArrayRef grid_hw,
    at::IntArrayRef output_size);

std::tuple<at::Tensor, at::Tensor> trajectory_attention_cpu(
    const at::Tensor& q,
    const at::Tensor& k,
    const at::Tensor& v,
    const at::Tensor& labels,
    const at::Tensor& q_labels);

std::tuple<at::Tensor, at::Tensor, at::Tensor> trajectory_attention_backward_cpu(
    const at::Tensor& grad,
    const at::Tensor& q,
    const at::Tensor& k,
    const at::Tensor& v,
    const at::Tensor& labels,
    const at::Tensor& q_labels,
    const at::Tensor& out,
    const at::Tensor& logsumexp);

std::tuple<at::Tensor, at::Tensor> batched_assignment_cuda(
    const at::Tensor& cost,
    const std::optional<at::Tensor>& num_rows,
    const std::optional<at::Tensor>& num_cols);

at::Tensor quick_gelu_cuda(const at::Tensor& x);

at::Tensor quick_gelu_backward_cuda(const at::Tensor& grad, const at::Tensor& x);

std::tuple<at::Tensor, at::Tensor> roi_align_max_cuda(
    const at::Tensor& given_tokens,
    const at::Tensor& boxes,
    const at::Tensor& valid,
    at::IntArrayRef grid_hw,
    at::IntArrayRef output_size);

at::Tensor roi_align_max_backward_cuda(
    const at::Tensor& grad,
    const at::Tensor& winner,
    const at::Tensor& boxes,
    at::IntArrayRef grid_hw,
    at::IntArrayRef output_size);

std::tuple<at::Tensor, at::Tensor> trajectory_attention_cuda(
    const at::Tensor& given_q,
    const at::Tensor& given_k,
    const at::Tensor& given_v,
    const at::Tensor& given_labels,
    const at::Tensor& given_q_labels);

std::tuple<at::Tensor, at::Tensor, at::Tensor> trajectory_attention_backward_cuda(
    const at::Tensor& given_grad,
    const at::Tensor& given_q,
    const at::Tensor& given_k,
    const at::Tensor& given_v,
    const at::Tensor& given_labels,
    const at::Tensor& given_q_labels,
    const at::Tensor& given_out,
    const at::Tensor& given_logsumexp);

}  // namespace stoa
