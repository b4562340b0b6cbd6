#include "../kernels.h"
#include "../roi_align_max_check.h"
#include "launch.h"
#include "roi_align_max_backward.cuh"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include <tuple>

namespace stoa {
namespace {

void check_samples_fit(const LaunchShape& shape, const RoiGrid& grid) {
  TORCH_CHECK_VALUE(
      shape.shared_bytes <= kMaxSharedBytes,
      "output_size has ",
      grid.out_h,
      " x ",
      grid.out_w,
      " bins on a map of ",
      grid.h,
      " x ",
      grid.w,
      ", more than a GPU's shared memory holds samples of; take fewer");
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> roi_align_max_cuda(
    const at::Tensor& given_tokens,
    const at::Tensor& boxes,
    const at::Tensor& valid,
    at::IntArrayRef grid_hw,
    at::IntArrayRef output_size) {
  const RoiGrid grid = checked_grid(grid_hw, output_size);
  check_roi_forward(given_tokens, boxes, valid, grid);
  const c10::cuda::CUDAGuard guard(given_tokens.device());
  // Patches behind a [CLS] are read in place; only a map with channels apart, or patches very far,
  // is copied.
  const bool in_place =
      given_tokens.stride(2) == 1 && given_tokens.stride(1) < (int64_t{1} << 31) / grid.patches();
  const at::Tensor tokens = in_place ? given_tokens : given_tokens.contiguous();
  TORCH_CHECK_VALUE(
      tokens.size(2) < (int64_t{1} << 31) / grid.patches(),
      "tokens has frames of 2^31 elements: ",
      tokens.sizes());
  const at::Tensor boxes_of = boxes.contiguous(), valid_of = valid.contiguous();
  const int64_t F = tokens.size(0), K = boxes.size(1), C = tokens.size(2);
  at::Tensor values = at::empty({F, K, C}, tokens.options());
  at::Tensor winner = at::empty({F, K, C}, tokens.options().dtype(at::kShort));
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, tokens.scalar_type(), "roi_align_max", [&] {
        using device_t = typename DeviceType<scalar_t>::type;
        using T = typename Accumulator<device_t>::type;
        const RoiAlignMaxArguments<device_t> args{
            device_data<scalar_t>(tokens),
            tokens.stride(0),
            static_cast<int>(tokens.stride(1)),
            boxes_of.const_data_ptr<T>(),
            valid_of.const_data_ptr<bool>(),
            mutable_device_data<scalar_t>(values),
            winner.mutable_data_ptr<int16_t>(),
            F,
            static_cast<int>(K),
            static_cast<int>(C),
            grid};
        if (values.numel() == 0) {
          return;
        }
        bool staged = false;
        const LaunchShape shape =
            roi_align_max_shape<device_t>(grid, F, args.num_boxes, args.num_channels, &staged);
        check_samples_fit(shape, grid);
        launch(
            staged ? &roi_align_max_forward<device_t, kRoiStageable<device_t>>
                   : &roi_align_max_forward<device_t, false>,
            shape,
            args);
      });
  return {values, winner};
}

at::Tensor roi_align_max_backward_cuda(
    const at::Tensor& grad,
    const at::Tensor& winner,
    const at::Tensor& boxes,
    at::IntArrayRef grid_hw,
    at::IntArrayRef output_size) {
  const RoiGrid grid = checked_grid(grid_hw, output_size);
  check_roi_backward(grad, winner, boxes);
  const c10::cuda::CUDAGuard guard(grad.device());
  const at::Tensor grad_of = grad.contiguous(), winner_of = winner.contiguous(),
                   boxes_of = boxes.contiguous();
  const int64_t F = grad.size(0), K = grad.size(1), C = grad.size(2);
  at::Tensor grad_tokens = at::empty({F, grid.patches(), C}, grad.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, grad.scalar_type(), "roi_align_max_backward", [&] {
        using device_t = typename DeviceType<scalar_t>::type;
        using T = typename Accumulator<device_t>::type;
        const RoiAlignMaxBackwardArguments<device_t> args{
            device_data<scalar_t>(grad_of),
            winner_of.const_data_ptr<int16_t>(),
            boxes_of.const_data_ptr<T>(),
            mutable_device_data<scalar_t>(grad_tokens),
            F,
            static_cast<int>(K),
            static_cast<int>(C),
            grid};
        if (grad_tokens.numel() == 0) {
          return;
        }
        const LaunchShape shape =
            roi_align_max_backward_shape<device_t>(grid, F, args.num_channels);
        check_samples_fit(shape, grid);
        launch(&roi_align_max_backward<device_t>, shape, args, roi_tile<device_t>(grid));
      });
  return grad_tokens;
}

}  // namespace stoa
