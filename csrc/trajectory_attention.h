#pragma once

#include <cstdint>

namespace stoa {

// q (B, H, Q, D), k and v (B, H, S, D) float of one dtype; labels (B, S) and q_labels (B, Q) int64.
// out (B, H, Q, D), with the strides of a contiguous (B, Q, H, D); logsumexp (B, H, Q) of the
// scaled scores that a query sees, -inf where it sees none, float64 for float64, else float32.
inline constexpr const char* kTrajectoryAttentionSchema =
    "trajectory_attention(Tensor q, Tensor k, Tensor v, Tensor labels, Tensor q_labels)"
    " -> (Tensor out, Tensor logsumexp)";

// grad (B, H, Q, D) of out; the gradients of q, k and v, with strides as out has them.
inline constexpr const char* kTrajectoryAttentionBackwardSchema =
    "trajectory_attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor labels,"
    " Tensor q_labels, Tensor out, Tensor logsumexp) -> (Tensor, Tensor, Tensor)";

// A warp holds a row in registers.
inline constexpr int64_t kMaxHeadDim = 128;

}  // namespace stoa
