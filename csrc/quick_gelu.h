#pragma once

namespace stoa {

// x * sigmoid(1.702 x), in the dtype and layout of x, which is dense.
inline constexpr const char* kQuickGeluSchema = "quick_gelu(Tensor x) -> Tensor";

// The gradient of x; grad is like x.
inline constexpr const char* kQuickGeluBackwardSchema =
    "quick_gelu_backward(Tensor grad, Tensor x) -> Tensor";

// Of Hendrycks and Gimpel, "Gaussian Error Linear Units (GELUs)", 2016.
inline constexpr double kQuickGeluSlope = 1.702;

}  // namespace stoa
