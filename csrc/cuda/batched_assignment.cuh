#pragma once

// Exact rectangular assignment, a warp a problem. The algorithm, its order of summation and its
// rule for ties are those of the CPU (csrc/cpu/batched_assignment.cpp), so that both return the
// same indices.

#include "device.cuh"

namespace stoa {

template <typename scalar_t>
struct AssignmentArguments {
  const scalar_t* cost;  // (B, R, C), any strides
  int64_t batch_stride;
  int64_t row_stride;
  int64_t col_stride;
  const int64_t* num_rows;  // (B,) or null
  const int64_t* num_cols;  // (B,) or null
  int64_t* match;           // (B, R)
  bool* infeasible;         // (B,)
  int R;
  int C;
};

inline LaunchShape assignment_shape(int64_t num_problems, int R, int C) {
  const std::size_t longer = R > C ? R : C, shorter = R > C ? C : R;
  SharedPlan plan;
  plan.array<double>(shorter);
  plan.array<double>(longer);
  plan.array<double>(longer);
  plan.array<int16_t>(shorter);
  plan.array<int16_t>(longer);
  plan.array<int16_t>(longer);
  plan.array<int16_t>(longer);
  return {num_problems, 1, 1, kWarpSize, plan.bytes};
}

__device__ __forceinline__ double as_double(double x) {
  return x;
}
__device__ __forceinline__ double as_double(float x) {
  return x;
}
__device__ __forceinline__ double as_double(__half x) {
  return __half2float(x);
}
__device__ __forceinline__ double as_double(__nv_bfloat16 x) {
  return __bfloat162float(x);
}

// One problem, turned so that it has no more rows than columns.
template <typename scalar_t>
class WarpAssignment {
 public:
  __device__ WarpAssignment(const AssignmentArguments<scalar_t>& args, int rows, int cols)
      : tall_(rows > cols),
        rows_(tall_ ? cols : rows),
        cols_(tall_ ? rows : cols),
        cost_(args.cost + static_cast<int64_t>(blockIdx.x) * args.batch_stride),
        row_stride_(tall_ ? args.col_stride : args.row_stride),
        col_stride_(tall_ ? args.row_stride : args.col_stride),
        lane_(threadIdx.x) {
    const std::size_t longer = args.R > args.C ? args.R : args.C,
                      shorter = args.R > args.C ? args.C : args.R;
    SharedMemory shared;
    row_dual_ = shared.array<double>(shorter);
    col_dual_ = shared.array<double>(longer);
    distance_ = shared.array<double>(longer);
    col_of_row_ = shared.array<int16_t>(shorter);
    row_of_col_ = shared.array<int16_t>(longer);
    parent_row_ = shared.array<int16_t>(longer);
    columns_ = shared.array<int16_t>(longer);
  }

  // Whether the problem holds no NaN and no -inf.
  __device__ bool valid() const {
    bool bad = false;
    for (int index = lane_; index < rows_ * cols_; index += kWarpSize) {
      const double value = cost(index / cols_, index % cols_);
      bad = bad || value != value || value == -infinity<double>();
    }
    return !__any_sync(kFullWarp, bad);
  }

  // False where no complete assignment is finite.
  __device__ bool solve() {
    for (int row = lane_; row < rows_; row += kWarpSize) {
      row_dual_[row] = 0;
    }
    for (int col = lane_; col < cols_; col += kWarpSize) {
      col_dual_[col] = 0;
      row_of_col_[col] = -1;
    }
    for (int row = 0; row < rows_; ++row) {
      __syncwarp();
      const int free_col = find_path(row);
      if (free_col < 0) {
        return false;
      }
      if (lane_ == 0) {
        augment(row, free_col);
      }
    }
    __syncwarp();
    return true;
  }

  // Writes the columns of the original rows, which hold -1.
  __device__ void write(int64_t* match) const {
    for (int row = lane_; row < rows_; row += kWarpSize) {
      const int col = col_of_row_[row];
      match[tall_ ? col : row] = tall_ ? row : col;
    }
  }

 private:
  __device__ double cost(int row, int col) const {
    return as_double(cost_[row * row_stride_ + col * col_stride_]);
  }

  // The position of the nearest open column. Of equally near ones the last free one in the order of
  // scanning wins, then the first.
  struct Nearest {
    double distance;
    int rank;
  };

  __device__ Nearest nearest_of_warp(Nearest mine) const {
    for (int other = kWarpSize / 2; other > 0; other /= 2) {
      const double distance = __shfl_xor_sync(kFullWarp, mine.distance, other);
      const int rank = __shfl_xor_sync(kFullWarp, mine.rank, other);
      if (distance < mine.distance || (distance == mine.distance && rank < mine.rank)) {
        mine = {distance, rank};
      }
    }
    return mine;
  }

  // Shortest path from `start_row` to a free column, which is returned, or -1; updates the duals.
  __device__ int find_path(int start_row) {
    for (int k = lane_; k < cols_; k += kWarpSize) {
      columns_[k] = static_cast<int16_t>(cols_ - 1 - k);
      distance_[k] = infinity<double>();
    }
    __syncwarp();
    int num_open = cols_, row = start_row, free_col = -1;
    double settled_distance = 0;
    while (free_col < 0) {
      Nearest nearest = {infinity<double>(), 2 * cols_};
      for (int k = lane_; k < num_open; k += kWarpSize) {
        const int col = columns_[k];
        const double through_row =
            settled_distance + cost(row, col) - row_dual_[row] - col_dual_[col];
        if (through_row < distance_[col]) {
          distance_[col] = through_row;
          parent_row_[col] = static_cast<int16_t>(row);
        }
        const int rank = row_of_col_[col] < 0 ? cols_ - 1 - k : cols_ + k;
        const double distance = distance_[col];
        if (distance < nearest.distance || (distance == nearest.distance && rank < nearest.rank)) {
          nearest = {distance, rank};
        }
      }
      nearest = nearest_of_warp(nearest);
      if (nearest.distance == infinity<double>()) {
        return -1;
      }
      settled_distance = nearest.distance;
      const int position = nearest.rank < cols_ ? cols_ - 1 - nearest.rank : nearest.rank - cols_;
      const int col = columns_[position];
      --num_open;
      __syncwarp();
      if (lane_ == 0) {
        columns_[position] = columns_[num_open];
        columns_[num_open] = static_cast<int16_t>(col);
      }
      __syncwarp();
      row = row_of_col_[col];
      free_col = row < 0 ? col : -1;
    }
    if (lane_ == 0) {
      row_dual_[start_row] += settled_distance;
    }
    for (int k = num_open + lane_; k < cols_; k += kWarpSize) {
      const int col = columns_[k];
      const double slack = settled_distance - distance_[col];
      col_dual_[col] -= slack;
      if (col != free_col) {
        row_dual_[row_of_col_[col]] += slack;
      }
    }
    __syncwarp();
    return free_col;
  }

  // Flips the matched and unmatched edges along the path from `start_row` to `col`.
  __device__ void augment(int start_row, int col) {
    int row = -1;
    while (row != start_row) {
      row = parent_row_[col];
      row_of_col_[col] = static_cast<int16_t>(row);
      const int next = col_of_row_[row];
      col_of_row_[row] = static_cast<int16_t>(col);
      col = next;
    }
  }

  const bool tall_;
  const int rows_;
  const int cols_;
  const scalar_t* cost_;
  const int64_t row_stride_;
  const int64_t col_stride_;
  const int lane_;
  double* row_dual_;
  double* col_dual_;
  double* distance_;
  int16_t* col_of_row_;
  int16_t* row_of_col_;
  int16_t* parent_row_;
  int16_t* columns_;
};

// What takes part in the problem of a block. A count out of range is clamped, and its problem
// flagged as infeasible.
struct AssignmentCounts {
  int rows;
  int cols;
  bool clamped;
};

template <typename scalar_t>
__device__ AssignmentCounts assignment_counts(const AssignmentArguments<scalar_t>& args) {
  const int64_t b = blockIdx.x;
  const int64_t given_rows = args.num_rows == nullptr ? args.R : args.num_rows[b];
  const int64_t given_cols = args.num_cols == nullptr ? args.C : args.num_cols[b];
  const int rows =
      static_cast<int>(given_rows < 0 ? 0 : (given_rows > args.R ? args.R : given_rows));
  const int cols =
      static_cast<int>(given_cols < 0 ? 0 : (given_cols > args.C ? args.C : given_cols));
  return {rows, cols, rows != given_rows || cols != given_cols};
}

// Solves the problem of a block; grid: problems.
template <typename Problem, typename scalar_t>
__device__ __forceinline__ void assign(const AssignmentArguments<scalar_t>& args) {
  const AssignmentCounts counts = assignment_counts(args);
  int64_t* match = args.match + static_cast<int64_t>(blockIdx.x) * args.R;
  for (int row = threadIdx.x; row < args.R; row += kWarpSize) {
    match[row] = -1;
  }
  __syncwarp();
  Problem problem(args, counts.rows, counts.cols);
  const bool solved = problem.valid() && problem.solve();
  if (solved) {
    problem.write(match);
  }
  if (threadIdx.x == 0) {
    args.infeasible[blockIdx.x] = !solved || counts.clamped;
  }
}

template <typename scalar_t>
__global__ void __launch_bounds__(kWarpSize)
    batched_assignment_kernel(const AssignmentArguments<scalar_t> args) {
  assign<WarpAssignment<scalar_t>>(args);
}

}  // namespace stoa
