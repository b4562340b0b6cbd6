#pragma once

// What both devices ask of the arguments of trajectory_attention and its backward.

#include "trajectory_attention.h"

#include <ATen/OpMathType.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

namespace stoa {

inline void check_labels(const at::Tensor& labels, const char* name, const at::Tensor& rows) {
  TORCH_CHECK_VALUE(
      labels.dim() == 2 && labels.size(0) == rows.size(0) && labels.size(1) == rows.size(2) &&
          labels.scalar_type() == at::kLong && labels.device() == rows.device(),
      name,
      " must be (",
      rows.size(0),
      ", ",
      rows.size(2),
      ") int64 on ",
      rows.device(),
      ", got ",
      labels.sizes(),
      " ",
      labels.scalar_type(),
      " on ",
      labels.device());
}

inline void check_attention_forward(
    const at::Tensor& q,
    const at::Tensor& k,
    const at::Tensor& v,
    const at::Tensor& labels,
    const at::Tensor& q_labels) {
  TORCH_CHECK_VALUE(
      k.dim() == 4 && k.sizes() == v.sizes(),
      "k and v must be (B, H, S, D), got ",
      k.sizes(),
      " and ",
      v.sizes());
  TORCH_CHECK_VALUE(
      q.dim() == 4 && q.size(0) == k.size(0) && q.size(1) == k.size(1) && q.size(3) == k.size(3),
      "q must be (B, H, Q, D) like k, ",
      k.sizes(),
      ", got ",
      q.sizes());
  TORCH_CHECK_VALUE(
      k.size(3) >= 1 && k.size(3) <= kMaxHeadDim,
      "k has a head width of ",
      k.size(3),
      ", allowed are 1 to ",
      kMaxHeadDim);
  for (const at::Tensor* other : {&k, &v}) {
    TORCH_CHECK_VALUE(
        other->scalar_type() == q.scalar_type() && other->device() == q.device(),
        "q, k and v must share dtype and device, got ",
        q.scalar_type(),
        " on ",
        q.device(),
        " and ",
        other->scalar_type(),
        " on ",
        other->device());
  }
  check_labels(labels, "labels", k);
  check_labels(q_labels, "q_labels", q);
}

inline void check_attention_backward(
    const at::Tensor& grad,
    const at::Tensor& q,
    const at::Tensor& out,
    const at::Tensor& logsumexp) {
  for (const at::Tensor* like_q : {&grad, &out}) {
    TORCH_CHECK_VALUE(
        like_q->sizes() == q.sizes() && like_q->scalar_type() == q.scalar_type() &&
            like_q->device() == q.device(),
        "grad and out must be like q, ",
        q.sizes(),
        " ",
        q.scalar_type(),
        ", got ",
        like_q->sizes(),
        " ",
        like_q->scalar_type());
  }
  TORCH_CHECK_VALUE(
      logsumexp.sizes() == q.sizes().slice(0, 3) &&
          logsumexp.scalar_type() == at::toOpMathType(q.scalar_type()) &&
          logsumexp.device() == q.device(),
      "logsumexp must be ",
      q.sizes().slice(0, 3),
      " ",
      at::toOpMathType(q.scalar_type()),
      ", got ",
      logsumexp.sizes(),
      " ",
      logsumexp.scalar_type());
}

// (B, H, Q, D) with the strides of a contiguous (B, Q, H, D): the heads of a row lie side by side,
// as the projection after the attention reads them.
inline at::Tensor empty_heads_inside(const at::Tensor& like) {
  return at::empty({like.size(0), like.size(2), like.size(1), like.size(3)}, like.options())
      .transpose(1, 2);
}

}  // namespace stoa
