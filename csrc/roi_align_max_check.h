#pragma once

// What both devices ask of the arguments of roi_align_max and its backward.

#include "roi_align_max.h"
#include "roi_axis.h"

#include <ATen/OpMathType.h>
#include <ATen/core/Tensor.h>

#include <limits>

namespace stoa {

inline RoiGrid checked_grid(at::IntArrayRef grid_hw, at::IntArrayRef output_size) {
  constexpr int64_t most = std::numeric_limits<int>::max();
  TORCH_CHECK_VALUE(
      grid_hw.size() == 2 && grid_hw[0] > 0 && grid_hw[1] > 0 && grid_hw[0] <= most / grid_hw[1],
      "grid_hw is ",
      grid_hw,
      ", expected two positive numbers of rows and columns");
  TORCH_CHECK_VALUE(
      output_size.size() == 2 && output_size[0] > 0 && output_size[1] > 0 &&
          output_size[0] <= kMaxRoiBins / output_size[1],
      "output_size is ",
      output_size,
      ", allowed are 1 to ",
      kMaxRoiBins,
      " bins");
  return {
      static_cast<int>(grid_hw[0]),
      static_cast<int>(grid_hw[1]),
      static_cast<int>(output_size[0]),
      static_cast<int>(output_size[1])};
}

// `boxes` (F, K, 4), for features or their gradient (F, ..., C).
inline void check_roi_boxes(const at::Tensor& boxes, const at::Tensor& features) {
  const auto dtype = at::toOpMathType(features.scalar_type());
  TORCH_CHECK_VALUE(
      boxes.dim() == 3 && boxes.size(0) == features.size(0) && boxes.size(2) == 4 &&
          boxes.scalar_type() == dtype && boxes.device() == features.device(),
      "boxes must be (",
      features.size(0),
      ", K, 4) ",
      dtype,
      " on ",
      features.device(),
      ", got ",
      boxes.sizes(),
      " ",
      boxes.scalar_type(),
      " on ",
      boxes.device());
}

inline void check_roi_forward(
    const at::Tensor& tokens,
    const at::Tensor& boxes,
    const at::Tensor& valid,
    const RoiGrid& grid) {
  TORCH_CHECK_VALUE(
      tokens.dim() == 3 && tokens.size(1) == grid.patches(),
      "tokens must be (F, P, C) with the ",
      grid.patches(),
      " patches of grid_hw, got ",
      tokens.sizes());
  check_roi_boxes(boxes, tokens);
  TORCH_CHECK_VALUE(
      valid.dim() == 2 && valid.size(0) == boxes.size(0) && valid.size(1) == boxes.size(1) &&
          valid.scalar_type() == at::kBool && valid.device() == tokens.device(),
      "valid must be (",
      boxes.size(0),
      ", ",
      boxes.size(1),
      ") bool on ",
      tokens.device(),
      ", got ",
      valid.sizes(),
      " ",
      valid.scalar_type(),
      " on ",
      valid.device());
}

inline void check_roi_backward(
    const at::Tensor& grad, const at::Tensor& winner, const at::Tensor& boxes) {
  TORCH_CHECK_VALUE(grad.dim() == 3, "grad must be (F, K, C), got ", grad.sizes());
  check_roi_boxes(boxes, grad);
  TORCH_CHECK_VALUE(
      boxes.size(1) == grad.size(1),
      "boxes has ",
      boxes.size(1),
      " boxes a frame, grad ",
      grad.size(1));
  TORCH_CHECK_VALUE(
      winner.sizes() == grad.sizes() && winner.scalar_type() == at::kShort &&
          winner.device() == grad.device(),
      "winner must be ",
      grad.sizes(),
      " int16 on ",
      grad.device(),
      ", got ",
      winner.sizes(),
      " ",
      winner.scalar_type(),
      " on ",
      winner.device());
}

}  // namespace stoa
