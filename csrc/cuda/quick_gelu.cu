#include "../kernels.h"
#include "../quick_gelu.h"
#include "launch.h"
#include "quick_gelu.cuh"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty_like.h>

namespace stoa {
namespace {

bool is_aligned(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
}

at::Tensor run(const at::Tensor* given_grad, const at::Tensor& given) {
  const c10::cuda::CUDAGuard guard(given.device());
  const at::Tensor x = given.contiguous();
  const at::Tensor grad = given_grad == nullptr ? x : given_grad->contiguous();
  at::Tensor out = at::empty_like(x);
  if (x.numel() == 0) {
    return out;
  }
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "quick_gelu", [&] {
    using device_t = typename DeviceType<scalar_t>::type;
    const device_t* grad_of = given_grad == nullptr ? nullptr : device_data<scalar_t>(grad);
    const device_t* x_of = device_data<scalar_t>(x);
    device_t* out_of = mutable_device_data<scalar_t>(out);
    const QuickGeluArguments<device_t> args{
        grad_of,
        x_of,
        out_of,
        x.numel(),
        is_aligned(x_of) && is_aligned(out_of) && (grad_of == nullptr || is_aligned(grad_of))};
    launch(
        given_grad == nullptr ? &quick_gelu_kernel<device_t, false>
                              : &quick_gelu_kernel<device_t, true>,
        quick_gelu_shape<device_t>(args.count),
        args);
  });
  return out;
}

}  // namespace

at::Tensor quick_gelu_cuda(const at::Tensor& x) {
  return run(nullptr, x);
}

at::Tensor quick_gelu_backward_cuda(const at::Tensor& grad, const at::Tensor& x) {
  return run(&grad, x);
}

}  // namespace stoa
