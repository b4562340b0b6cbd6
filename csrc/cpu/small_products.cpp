#include "small_products.h"

#include "wide.h"

namespace stoa {
namespace {

// kRows rows and kVectors vectors of a product, held in registers.
template <int kRows, int kVectors, typename T>
STOA_INLINE_INTO_VERSIONS void multiply_block(
    Matrix<T> left, const T* right, int64_t inner, int64_t width, bool add, T* product) {
  using V = Wide<T>;
  V sums[kRows][kVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int c = 0; c < kVectors; ++c) {
      sums[r][c] = add ? reinterpret_cast<const V*>(product + r * width)[c] : V{};
    }
  }
  for (int64_t k = 0; k < inner; ++k) {
    const V* row = reinterpret_cast<const V*>(right + k * width);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const T factor = left.at[r * left.row + k * left.column];
#pragma GCC unroll 2
      for (int c = 0; c < kVectors; ++c) {
        sums[r][c] += factor * row[c];
      }
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int c = 0; c < kVectors; ++c) {
      reinterpret_cast<V*>(product + r * width)[c] = sums[r][c];
    }
  }
}

template <int kRows, typename T>
STOA_INLINE_INTO_VERSIONS void multiply_rows(
    Matrix<T> left, const T* right, int64_t inner, int64_t width, bool add, T* product) {
  constexpr int64_t kLanes = kWideLanes<T>;
  int64_t column = 0;
  for (; column + 2 * kLanes <= width; column += 2 * kLanes) {
    multiply_block<kRows, 2>(left, right + column, inner, width, add, product + column);
  }
  if (column < width) {
    multiply_block<kRows, 1>(left, right + column, inner, width, add, product + column);
  }
}

template <typename T>
STOA_INLINE_INTO_VERSIONS void multiply_any(
    Matrix<T> left,
    const T* right,
    int64_t rows,
    int64_t inner,
    int64_t width,
    bool add,
    T* product) {
  constexpr int64_t kMostRows = 6;  // with two vectors each they fill the registers of AVX2
  for (int64_t blocks = (rows + kMostRows - 1) / kMostRows; blocks > 0; --blocks) {
    const int64_t taken = (rows + blocks - 1) / blocks;
    switch (taken) {
      case 1:
        multiply_rows<1>(left, right, inner, width, add, product);
        break;
      case 2:
        multiply_rows<2>(left, right, inner, width, add, product);
        break;
      case 3:
        multiply_rows<3>(left, right, inner, width, add, product);
        break;
      case 4:
        multiply_rows<4>(left, right, inner, width, add, product);
        break;
      case 5:
        multiply_rows<5>(left, right, inner, width, add, product);
        break;
      case kMostRows:
        multiply_rows<kMostRows>(left, right, inner, width, add, product);
        break;
    }
    left.at += taken * left.row;
    product += taken * width;
    rows -= taken;
  }
}

// dots[j] = x . rows[j] of kRows rows.
template <int kRows, typename T>
STOA_INLINE_INTO_VERSIONS void dot_block(const T* x, const T* rows, int64_t length, T* dots) {
  using V = Wide<T>;
  V sums[kRows] = {};
  for (int64_t d = 0; d < length; d += kWideLanes<T>) {
    const V values = *reinterpret_cast<const V*>(x + d);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      sums[r] += values * *reinterpret_cast<const V*>(rows + r * length + d);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    T sum = 0;
    for (int64_t lane = 0; lane < kWideLanes<T>; ++lane) {
      sum += sums[r][lane];
    }
    dots[r] = sum;
  }
}

template <typename T>
STOA_INLINE_INTO_VERSIONS void dot_any(
    const T* left, const T* right, int64_t num_left, int64_t num_right, int64_t length, T* dots) {
  for (int64_t i = 0; i < num_left; ++i, left += length, dots += num_right) {
    int64_t j = 0;
    for (; j + 4 <= num_right; j += 4) {
      dot_block<4>(left, right + j * length, length, dots + j);
    }
    switch (num_right - j) {
      case 3:
        dot_block<3>(left, right + j * length, length, dots + j);
        break;
      case 2:
        dot_block<2>(left, right + j * length, length, dots + j);
        break;
      case 1:
        dot_block<1>(left, right + j * length, length, dots + j);
        break;
    }
  }
}

}  // namespace

STOA_MULTIVERSION void dot(
    const float* left,
    const float* right,
    int64_t num_left,
    int64_t num_right,
    int64_t length,
    float* dots) {
  dot_any(left, right, num_left, num_right, length, dots);
}

STOA_MULTIVERSION void dot(
    const double* left,
    const double* right,
    int64_t num_left,
    int64_t num_right,
    int64_t length,
    double* dots) {
  dot_any(left, right, num_left, num_right, length, dots);
}

STOA_MULTIVERSION void multiply(
    Matrix<float> left,
    const float* right,
    int64_t rows,
    int64_t inner,
    int64_t width,
    bool add,
    float* product) {
  multiply_any(left, right, rows, inner, width, add, product);
}

STOA_MULTIVERSION void multiply(
    Matrix<double> left,
    const double* right,
    int64_t rows,
    int64_t inner,
    int64_t width,
    bool add,
    double* product) {
  multiply_any(left, right, rows, inner, width, add, product);
}

}  // namespace stoa
