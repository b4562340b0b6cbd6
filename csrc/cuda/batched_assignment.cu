#include "../batched_assignment.h"
#include "../kernels.h"
#include "launch.h"
#include "small_assignment.cuh"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include <optional>
#include <tuple>

namespace stoa {
namespace {

const int64_t* counts_data(
    const std::optional<at::Tensor>& counts,
    const char* name,
    const at::Tensor& cost,
    at::Tensor& kept) {
  if (!counts.has_value()) {
    return nullptr;
  }
  TORCH_CHECK_VALUE(
      counts->device() == cost.device() && counts->scalar_type() == at::kLong &&
          counts->dim() == 1 && counts->size(0) == cost.size(0),
      name,
      " must be an int64 tensor of shape (",
      cost.size(0),
      ",) on ",
      cost.device(),
      ", got ",
      counts->scalar_type(),
      " of shape ",
      counts->sizes(),
      " on ",
      counts->device());
  kept = counts->contiguous();
  return kept.const_data_ptr<int64_t>();
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> batched_assignment_cuda(
    const at::Tensor& cost,
    const std::optional<at::Tensor>& num_rows,
    const std::optional<at::Tensor>& num_cols) {
  TORCH_CHECK_VALUE(cost.dim() == 3, "cost must be (B, R, C), got shape ", cost.sizes());
  const int64_t B = cost.size(0), R = cost.size(1), C = cost.size(2);
  TORCH_CHECK_VALUE(
      R <= kMaxAssignmentSize && C <= kMaxAssignmentSize,
      "cost has ",
      R,
      " rows and ",
      C,
      " columns, allowed are up to ",
      kMaxAssignmentSize,
      " of each");
  const c10::cuda::CUDAGuard guard(cost.device());
  at::Tensor rows, cols;
  const int64_t* row_counts = counts_data(num_rows, "num_rows", cost, rows);
  const int64_t* col_counts = counts_data(num_cols, "num_cols", cost, cols);
  at::Tensor match = at::empty({B, R}, cost.options().dtype(at::kLong));
  at::Tensor infeasible = at::empty({B}, cost.options().dtype(at::kBool));
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, cost.scalar_type(), "batched_assignment", [&] {
        using device_t = typename DeviceType<scalar_t>::type;
        const AssignmentArguments<device_t> args{
            device_data<scalar_t>(cost),
            cost.stride(0),
            cost.stride(1),
            cost.stride(2),
            row_counts,
            col_counts,
            match.mutable_data_ptr<int64_t>(),
            infeasible.mutable_data_ptr<bool>(),
            static_cast<int>(R),
            static_cast<int>(C)};
        if (R <= kWarpSize && C <= kWarpSize) {
          launch(
              &small_assignment_kernel<device_t>, small_assignment_shape(B, args.R, args.C), args);
        } else {
          launch(&batched_assignment_kernel<device_t>, assignment_shape(B, args.R, args.C), args);
        }
      });
  return {match, infeasible};
}

}  // namespace stoa
