// Exact rectangular assignment on the CPU, parallel over the problems of a batch.
//
// Rows enter one at a time; each is matched along a shortest augmenting path found by Dijkstra's
// algorithm on costs reduced by dual variables (Jonker and Volgenant, 1987; the rectangular form is
// Crouse's, "On implementing 2D rectangular assignment algorithms", 2016). Work is in double.
//
// Ties are decided as scipy.optimize.linear_sum_assignment decides them, so that the indices agree
// and not only the total: open columns are scanned from an order that starts with the last one, a
// chosen column is replaced in that order by the one at the end, and among equally near columns a
// free one wins over a matched one.

#include "../batched_assignment.h"
#include "../kernels.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

namespace stoa {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kNone = -1;

// Solves problems of at most `max_rows` x `max_cols`, rows <= columns, reusing its memory.
class AssignmentSolver {
 public:
  AssignmentSolver(int64_t max_rows, int64_t max_cols)
      : row_dual_(max_rows),
        col_dual_(max_cols),
        distance_(max_cols),
        parent_row_(max_cols),
        col_of_row_(max_rows),
        row_of_col_(max_cols),
        columns_(max_cols) {}

  // `cost` is row-major, without NaN and -inf. False when no complete assignment is finite.
  bool solve(const double* cost, int64_t num_rows, int64_t num_cols) {
    std::fill_n(row_dual_.begin(), num_rows, 0.0);
    std::fill_n(col_dual_.begin(), num_cols, 0.0);
    std::fill_n(col_of_row_.begin(), num_rows, kNone);
    std::fill_n(row_of_col_.begin(), num_cols, kNone);
    for (int64_t row = 0; row < num_rows; ++row) {
      const int64_t free_col = find_path(cost, num_cols, row);
      if (free_col == kNone) {
        return false;
      }
      augment(row, free_col);
    }
    return true;
  }

  int64_t col_of_row(int64_t row) const { return col_of_row_[row]; }

 private:
  // Shortest path from `start_row` to a free column, which is returned; updates the duals.
  int64_t find_path(const double* cost, int64_t num_cols, int64_t start_row) {
    // columns_[0, num_open) are open; the rest are those Dijkstra's algorithm has settled.
    std::iota(columns_.rend() - num_cols, columns_.rend(), int64_t{0});
    std::fill_n(distance_.begin(), num_cols, kInfinity);
    int64_t num_open = num_cols;
    int64_t row = start_row;
    int64_t free_col = kNone;
    double settled_distance = 0.0;
    while (free_col == kNone) {
      const double* row_cost = cost + row * num_cols;
      double nearest_distance = kInfinity;
      int64_t nearest = kNone;
      for (int64_t k = 0; k < num_open; ++k) {
        const int64_t col = columns_[k];
        const double through_row =
            settled_distance + row_cost[col] - row_dual_[row] - col_dual_[col];
        if (through_row < distance_[col]) {
          distance_[col] = through_row;
          parent_row_[col] = row;
        }
        const double col_distance = distance_[col];
        if (col_distance < nearest_distance ||
            (col_distance == nearest_distance && row_of_col_[col] == kNone)) {
          nearest_distance = col_distance;
          nearest = k;
        }
      }
      if (nearest_distance == kInfinity) {
        return kNone;
      }
      settled_distance = nearest_distance;
      const int64_t col = columns_[nearest];
      std::swap(columns_[nearest], columns_[--num_open]);
      row = row_of_col_[col];
      if (row == kNone) {
        free_col = col;
      }
    }
    row_dual_[start_row] += settled_distance;
    for (int64_t k = num_open; k < num_cols; ++k) {
      const int64_t col = columns_[k];
      const double slack = settled_distance - distance_[col];
      col_dual_[col] -= slack;
      if (col != free_col) {
        row_dual_[row_of_col_[col]] += slack;
      }
    }
    return free_col;
  }

  // Flips the matched and unmatched edges along the path from `start_row` to `free_col`.
  void augment(int64_t start_row, int64_t free_col) {
    int64_t col = free_col;
    int64_t row = kNone;
    do {
      row = parent_row_[col];
      row_of_col_[col] = row;
      std::swap(col_of_row_[row], col);
    } while (row != start_row);
  }

  std::vector<double> row_dual_;
  std::vector<double> col_dual_;
  std::vector<double> distance_;
  std::vector<int64_t> parent_row_;
  std::vector<int64_t> col_of_row_;
  std::vector<int64_t> row_of_col_;
  std::vector<int64_t> columns_;
};

// Copies a problem into `packed` as double, transposed if it is taller than wide. False when it
// holds a NaN or -inf.
template <typename scalar_t>
bool pack(
    const at::TensorAccessor<const scalar_t, 2>& cost,
    int64_t num_rows,
    int64_t num_cols,
    std::vector<double>& packed) {
  const bool tall = num_rows > num_cols;
  const int64_t row_step = tall ? 1 : num_cols;
  const int64_t col_step = tall ? num_rows : 1;
  for (int64_t row = 0; row < num_rows; ++row) {
    for (int64_t col = 0; col < num_cols; ++col) {
      const double value = static_cast<double>(cost[row][col]);
      if (std::isnan(value) || value == -kInfinity) {
        return false;
      }
      packed[row * row_step + col * col_step] = value;
    }
  }
  return true;
}

std::vector<int64_t> checked_counts(
    const std::optional<at::Tensor>& counts,
    const char* name,
    const char* what,
    int64_t batch_size,
    int64_t limit) {
  std::vector<int64_t> result(batch_size, limit);
  if (!counts.has_value()) {
    return result;
  }
  TORCH_CHECK_VALUE(
      counts->device().is_cpu() && counts->scalar_type() == at::kLong && counts->dim() == 1 &&
          counts->size(0) == batch_size,
      name,
      " must be an int64 tensor of shape (",
      batch_size,
      ",) on the CPU, got ",
      counts->scalar_type(),
      " of shape ",
      counts->sizes(),
      " on ",
      counts->device());
  const auto values = counts->accessor<int64_t, 1>();
  for (int64_t b = 0; b < batch_size; ++b) {
    TORCH_CHECK_VALUE(
        values[b] >= 0 && values[b] <= limit,
        name,
        "[",
        b,
        "] is ",
        values[b],
        ", allowed are 0 to ",
        limit,
        ", the ",
        what,
        " of cost");
    result[b] = values[b];
  }
  return result;
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> batched_assignment_cpu(
    const at::Tensor& cost,
    const std::optional<at::Tensor>& num_rows,
    const std::optional<at::Tensor>& num_cols) {
  TORCH_CHECK_VALUE(cost.dim() == 3, "cost must be (B, R, C), got shape ", cost.sizes());
  const int64_t batch_size = cost.size(0);
  const int64_t max_rows = cost.size(1);
  const int64_t max_cols = cost.size(2);
  TORCH_CHECK_VALUE(
      max_rows <= kMaxAssignmentSize && max_cols <= kMaxAssignmentSize,
      "cost has ",
      max_rows,
      " rows and ",
      max_cols,
      " columns, allowed are up to ",
      kMaxAssignmentSize,
      " of each");
  const auto row_counts = checked_counts(num_rows, "num_rows", "rows", batch_size, max_rows);
  const auto col_counts = checked_counts(num_cols, "num_cols", "columns", batch_size, max_cols);

  at::Tensor match = at::full({batch_size, max_rows}, kNone, cost.options().dtype(at::kLong));
  at::Tensor infeasible = at::zeros({batch_size}, cost.options().dtype(at::kBool));
  auto match_of = match.accessor<int64_t, 2>();
  auto infeasible_of = infeasible.accessor<bool, 1>();
  // A thread gets enough small problems to be worth waking up.
  const int64_t grain = 1 + 4096 / (1 + max_rows * max_cols);

  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, cost.scalar_type(), "batched_assignment", [&] {
        const auto cost_of = cost.accessor<const scalar_t, 3>();
        at::parallel_for(0, batch_size, grain, [&](int64_t begin, int64_t end) {
          const auto [shorter, longer] = std::minmax(max_rows, max_cols);
          AssignmentSolver solver(longer, longer);
          std::vector<double> packed(shorter * longer);
          for (int64_t b = begin; b < end; ++b) {
            const int64_t rows = row_counts[b];
            const int64_t cols = col_counts[b];
            const bool tall = rows > cols;
            const int64_t pairs = std::min(rows, cols);
            if (!pack<scalar_t>(cost_of[b], rows, cols, packed) ||
                !solver.solve(packed.data(), pairs, std::max(rows, cols))) {
              infeasible_of[b] = true;
              continue;
            }
            for (int64_t k = 0; k < pairs; ++k) {
              const int64_t other = solver.col_of_row(k);
              match_of[b][tall ? other : k] = tall ? k : other;
            }
          }
        });
      });
  return {match, infeasible};
}

}  // namespace stoa
