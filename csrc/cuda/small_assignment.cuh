#pragma once

// Exact rectangular assignment of up to 32 rows and columns, a warp a problem: what
// batched_assignment.cuh does for any size, with a lane a column (and a row) and its state in
// registers. A lane reads only costs that it has written, so nothing waits.

#include "batched_assignment.cuh"

namespace stoa {

inline LaunchShape small_assignment_shape(int64_t num_problems, int R, int C) {
  SharedPlan plan;
  plan.array<double>(static_cast<std::size_t>(R) * C);
  return {num_problems, 1, 1, kWarpSize, plan.bytes};
}

// One problem, turned so that it has no more rows than columns.
template <typename scalar_t>
class SmallAssignment {
 public:
  __device__ SmallAssignment(const AssignmentArguments<scalar_t>& args, int rows, int cols)
      : tall_(rows > cols),
        rows_(tall_ ? cols : rows),
        cols_(tall_ ? rows : cols),
        lane_(threadIdx.x),
        args_(args),
        cost_(SharedMemory().array<double>(static_cast<std::size_t>(args.R) * args.C)) {}

  // Reads the costs. Whether there is no NaN and no -inf.
  __device__ bool valid() {
    bool bad = false;
    if (lane_ < cols_) {
      const int64_t row_stride = tall_ ? args_.col_stride : args_.row_stride;
      const int64_t col_stride = tall_ ? args_.row_stride : args_.col_stride;
      const scalar_t* from =
          args_.cost + static_cast<int64_t>(blockIdx.x) * args_.batch_stride + lane_ * col_stride;
#pragma unroll 4
      for (int row = 0; row < rows_; ++row) {
        const double value = as_double(from[row * row_stride]);
        bad = bad || value != value || value == -infinity<double>();
        cost_[row * cols_ + lane_] = value;
      }
    }
    return !__any_sync(kFullWarp, bad);
  }

  // False where no complete assignment is finite.
  __device__ bool solve() {
    for (int row = 0; row < rows_; ++row) {
      const int free_col = find_path(row);
      if (free_col < 0) {
        return false;
      }
      augment(row, free_col);
    }
    return true;
  }

  // Writes the columns of the original rows, which hold -1.
  __device__ void write(int64_t* match) const {
    if (lane_ < rows_) {
      match[tall_ ? col_of_row_ : lane_] = tall_ ? lane_ : col_of_row_;
    }
  }

 private:
  template <typename T>
  static __device__ T of_lane(T x, int lane) {
    return __shfl_sync(kFullWarp, x, lane);
  }

  // The lane whose distance is least, or -1 where all are infinite. Of equally near ones that of
  // the least rank. Bits of doubles are compared, in an order that is that of the numbers.
  static __device__ int nearest_lane(double distance, int rank) {
    distance += 0.0;  // -0 equals 0
    const unsigned high = __double2hiint(distance), low = __double2loint(distance);
    const unsigned flip = high >> 31 != 0 ? ~0u : 0u;
    unsigned key = high ^ (flip | 0x80000000u);
    unsigned least = warp_min(key);
    if (least >= kInfiniteKey) {
      return -1;
    }
    const bool nearest = key == least;
    unsigned lanes = __ballot_sync(kFullWarp, nearest);
    if ((lanes & (lanes - 1)) != 0) {
      key = nearest ? low ^ flip : ~0u;
      least = warp_min(key);
      key = nearest && key == least ? rank : ~0u;
      lanes = __ballot_sync(kFullWarp, key == warp_min(key));
    }
    return __ffs(lanes) - 1;
  }

  // Shortest path from `start_row` to a free column, which is returned, or -1; updates the duals.
  __device__ int find_path(int start_row) {
    // Where the column is in the order of scanning, -1 when it is settled.
    int position = lane_ < cols_ ? cols_ - 1 - lane_ : -1;
    int num_open = cols_, row = start_row, col;
    double distance = infinity<double>(), settled_distance = 0;
    do {
      const double row_dual = of_lane(row_dual_, row);
      if (position >= 0) {
        const double through_row =
            settled_distance + cost_[row * cols_ + lane_] - row_dual - col_dual_;
        if (through_row < distance) {
          distance = through_row;
          parent_row_ = row;
        }
      }
      // As in the CPU's scan: the last free column, else the first.
      const int rank = row_of_col_ < 0 ? cols_ - 1 - position : cols_ + position;
      col = nearest_lane(position < 0 ? infinity<double>() : distance, rank);
      if (col < 0) {
        return -1;
      }
      settled_distance = of_lane(distance, col);
      // The last open column takes its place.
      const int place = of_lane(position, col);
      --num_open;
      position = lane_ == col ? -1 : (position == num_open ? place : position);
      row = of_lane(row_of_col_, col);
    } while (row >= 0);
    const double slack = settled_distance - distance;
    const bool settled = lane_ < cols_ && position < 0;
    if (settled) {
      col_dual_ -= slack;
    }
    const unsigned settled_cols = __ballot_sync(kFullWarp, settled);
    const double slack_of_match = of_lane(slack, col_of_row_ & (kWarpSize - 1));
    if (lane_ == start_row) {
      row_dual_ += settled_distance;
    } else if (col_of_row_ >= 0 && (settled_cols >> col_of_row_ & 1) != 0) {
      row_dual_ += slack_of_match;
    }
    return col;
  }

  // Flips the matched and unmatched edges along the path from `start_row` to `col`.
  __device__ void augment(int start_row, int col) {
    int row;
    do {
      row = of_lane(parent_row_, col);
      const int next = of_lane(col_of_row_, row);
      row_of_col_ = lane_ == col ? row : row_of_col_;
      col_of_row_ = lane_ == row ? col : col_of_row_;
      col = next;
    } while (row != start_row);
  }

  static constexpr unsigned kInfiniteKey = 0xfff00000u;

  const bool tall_;
  const int rows_;
  const int cols_;
  const int lane_;
  const AssignmentArguments<scalar_t>& args_;
  double* const cost_;  // (rows, columns)
  double row_dual_ = 0;
  double col_dual_ = 0;
  int parent_row_ = 0;
  int row_of_col_ = -1;
  int col_of_row_ = -1;
};

template <typename scalar_t>
__global__ void __launch_bounds__(kWarpSize)
    small_assignment_kernel(const AssignmentArguments<scalar_t> args) {
  assign<SmallAssignment<scalar_t>>(args);
}

}  // namespace stoa
