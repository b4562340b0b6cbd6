#pragma once

// Products of matrices of a few rows, for which a call into a library costs more than the product.
// Rows are aligned and their length is a multiple of kWideLanes.

#include <cstdint>

namespace stoa {

// A matrix by rows, or its transpose: element (i, k) is at[i * row + k * column].
template <typename T>
struct Matrix {
  const T* at;
  int64_t row;
  int64_t column;
};

// product (rows, width) = left (rows, inner) right (inner, width), or is added to it.
void multiply(
    Matrix<float> left,
    const float* right,
    int64_t rows,
    int64_t inner,
    int64_t width,
    bool add,
    float* product);
void multiply(
    Matrix<double> left,
    const double* right,
    int64_t rows,
    int64_t inner,
    int64_t width,
    bool add,
    double* product);

// dots (num_left, num_right), unpadded, of the rows of one with those of the other.
void dot(
    const float* left,
    const float* right,
    int64_t num_left,
    int64_t num_right,
    int64_t length,
    float* dots);
void dot(
    const double* left,
    const double* right,
    int64_t num_left,
    int64_t num_right,
    int64_t length,
    double* dots);

}  // namespace stoa
