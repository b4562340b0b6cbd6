#pragma once

// Where RoIAlign samples along one axis. Bilinear interpolation is separable, so a bin is a product
// of an average along y and one along x; He et al., "Mask R-CNN", 2017, aligned form, as many
// sampling points a bin as it is grid lines wide.

#if defined(__CUDACC__) || defined(__CUDA__)
#define STOA_HOST_DEVICE __host__ __device__
#else
#define STOA_HOST_DEVICE
#endif

namespace stoa {

// Rows and columns of patches, and of bins.
struct RoiGrid {
  int h;
  int w;
  int out_h;
  int out_w;

  STOA_HOST_DEVICE int patches() const { return h * w; }
};

// Interpolation between two neighbouring lines of the grid, the same one twice at its end. Both
// weights are zero for a point outside of the frame.
template <typename T>
struct AxisSample {
  int low;
  int high;
  T low_weight;
  T high_weight;
};

template <typename T>
struct RoiAxis {
  T start;     // grid coordinate where the box begins
  T step;      // grid lines a bin is wide
  int size;    // grid lines
  int points;  // sampling points a bin

  // `low` and `high` in [0, 1] of the frame.
  STOA_HOST_DEVICE RoiAxis(T low, T high, int size, int bins)
      : start(low * T(size) - T(0.5)), step((high - low) * T(size) / T(bins)), size(size) {
    // Boxes within the frame need no more; it bounds the work of all others.
    const int limit = max_points(size, bins);
    points = 1;
    while (points < limit && T(points) < step) {
      ++points;
    }
  }

  STOA_HOST_DEVICE static int max_points(int size, int bins) { return (size + bins - 1) / bins; }

  STOA_HOST_DEVICE AxisSample<T> sample(int bin, int point) const {
    T position = start + (T(bin) + (T(point) + T(0.5)) / T(points)) * step;
    if (!(position >= T(-1) && position <= T(size))) {
      return {0, 0, T(0), T(0)};
    }
    const T last = T(size - 1);
    position = position < T(0) ? T(0) : (position > last ? last : position);
    const int low = static_cast<int>(position);
    const int high = low < size - 1 ? low + 1 : low;
    const T fraction = position - T(low);
    return {low, high, (T(1) - fraction) / T(points), fraction / T(points)};
  }
};

// A box counts if its corners are numbers and it has an extent.
template <typename T>
STOA_HOST_DEVICE bool is_box(const T* box) {
  for (int i = 0; i < 4; ++i) {
    // Also false for a NaN; the difference of two infinities is one.
    if (!(box[i] - box[i] == T(0))) {
      return false;
    }
  }
  return box[2] > box[0] && box[3] > box[1];
}

}  // namespace stoa
