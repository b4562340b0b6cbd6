#pragma once

#include <cstdint>

namespace stoa {

// tokens (F, P, C) float, P = h * w patches in row-major order; boxes (F, K, 4) x1 y1 x2 y2 in
// [0, 1] of the frame, float64 for float64 tokens, else float32; valid (F, K) bool. values
// (F, K, C) like tokens, zero where not valid; winner (F, K, C) int16, -1 where not valid.
inline constexpr const char* kRoiAlignMaxSchema =
    "roi_align_max(Tensor tokens, Tensor boxes, Tensor valid, int[2] grid_hw, int[2] output_size)"
    " -> (Tensor values, Tensor winner)";

// grad (F, K, C) of the values; the gradient of tokens (F, P, C) in its dtype.
inline constexpr const char* kRoiAlignMaxBackwardSchema =
    "roi_align_max_backward(Tensor grad, Tensor winner, Tensor boxes, int[2] grid_hw,"
    " int[2] output_size) -> Tensor";

// The winner is int16.
inline constexpr int64_t kMaxRoiBins = 32767;

}  // namespace stoa
