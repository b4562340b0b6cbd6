// QuickGELU and its gradient in one pass over memory each, in vectors for float32. Half precision
// is computed in float32.

#include "../quick_gelu.h"
#include "../kernels.h"
#include "wide.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

namespace stoa {
namespace {

// Elements that are worked on at once: what is converted stays in the first cache.
constexpr int64_t kPiece = 1024;
constexpr int64_t kGrain = 16 * kPiece;

template <typename T>
using Math = std::conditional_t<std::is_same_v<T, double>, double, float>;

// e^x to 2 units in the last place (the polynomial of Cephes), not a number for what is none. What
// is too large for float32 is infinite, what is too small for its normal numbers is the smallest of
// them.
STOA_INLINE_INTO_VERSIONS Wide<float> wide_exp(Wide<float> x) {
  const Wide<float> most = Wide<float>{} + 89.0f, least = Wide<float>{} - 87.3f;
  x = x > most ? most : x;
  x = x < least ? least : x;
  // Adding 1.5 * 2^23 rounds to a whole number, which is then in the lowest bits.
  const Wide<float> shift = Wide<float>{} + 12582912.0f;
  const Wide<float> shifted = x * 1.44269504f + shift;
  const Wide<float> n = shifted - shift;
  const Wide<float> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Wide<float> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const WideIntegers<float> exponent =
      ((WideIntegers<float>)shifted - (WideIntegers<float>)shift + 127) << 23;
  return p * (Wide<float>)exponent;
}

STOA_INLINE_INTO_VERSIONS Wide<float> wide_sigmoid(Wide<float> z) {
  return 1.0f / (1.0f + wide_exp(-z));
}

STOA_INLINE_INTO_VERSIONS Wide<float> forward_of(Wide<float> x) {
  return x * wide_sigmoid(x * static_cast<float>(kQuickGeluSlope));
}

STOA_INLINE_INTO_VERSIONS Wide<float> backward_of(Wide<float> grad, Wide<float> x) {
  const Wide<float> z = x * static_cast<float>(kQuickGeluSlope), s = wide_sigmoid(z);
  return grad * s * (1.0f + z * (1.0f - s));
}

STOA_INLINE_INTO_VERSIONS Wide<float> loaded(const float* from, int64_t lanes) {
  Wide<float> x{};
  std::memcpy(&x, from, lanes * sizeof(float));
  return x;
}

// grad is null in the forward.
STOA_MULTIVERSION void float_piece(const float* grad, const float* x, float* out, int64_t count) {
  constexpr int64_t kLanes = kWideLanes<float>;
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t lanes = std::min(kLanes, count - i);
    const Wide<float> y = grad == nullptr
                              ? forward_of(loaded(x + i, lanes))
                              : backward_of(loaded(grad + i, lanes), loaded(x + i, lanes));
    std::memcpy(out + i, &y, lanes * sizeof(float));
  }
}

void double_piece(const double* grad, const double* x, double* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const double z = kQuickGeluSlope * x[i], s = 1.0 / (1.0 + std::exp(-z));
    out[i] = grad == nullptr ? x[i] * s : grad[i] * s * (1.0 + z * (1.0 - s));
  }
}

template <typename T>
void piece(const T* grad, const T* x, T* out, int64_t count) {
  if constexpr (std::is_same_v<T, double>) {
    double_piece(grad, x, out, count);
  } else if constexpr (std::is_same_v<T, float>) {
    float_piece(grad, x, out, count);
  } else {
    float grad_of[kPiece], x_of[kPiece];
    std::copy(x, x + count, x_of);
    if (grad != nullptr) {
      std::copy(grad, grad + count, grad_of);
    }
    float_piece(grad == nullptr ? nullptr : grad_of, x_of, x_of, count);
    std::copy(x_of, x_of + count, out);
  }
}

template <typename T>
void run(const T* grad, const T* x, T* out, int64_t count) {
  at::parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += kPiece) {
      piece(grad == nullptr ? nullptr : grad + i, x + i, out + i, std::min(kPiece, end - i));
    }
  });
}

}  // namespace

at::Tensor quick_gelu_cpu(const at::Tensor& given) {
  const at::Tensor x = given.contiguous();
  at::Tensor out = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "quick_gelu", [&] {
    run<scalar_t>(
        nullptr, x.const_data_ptr<scalar_t>(), out.mutable_data_ptr<scalar_t>(), x.numel());
  });
  return out;
}

at::Tensor quick_gelu_backward_cpu(const at::Tensor& given_grad, const at::Tensor& given) {
  const at::Tensor grad = given_grad.contiguous(), x = given.contiguous();
  at::Tensor out = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, x.scalar_type(), "quick_gelu_backward", [&] {
        run<scalar_t>(
            grad.const_data_ptr<scalar_t>(),
            x.const_data_ptr<scalar_t>(),
            out.mutable_data_ptr<scalar_t>(),
            x.numel());
      });
  return out;
}

}  // namespace stoa
