// RoIAlign and the maximum over its bins on the CPU, parallel over frames.
//
// The map of one frame is read in slices of a few vectors of channels; a slice stays in the
// first-level cache while all boxes of the frame are pooled from it. No bin is stored.

#include "../kernels.h"
#include "../roi_align_max_check.h"
#include "wide.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

namespace stoa {
namespace {

// The lines of the grid that a bin averages along one axis, and their weights.
template <typename T>
struct BinTaps {
  int first;
  int count;
  const T* weights;
};

template <typename T>
class AxisTaps {
 public:
  void assign(T low, T high, int size, int bins) {
    const RoiAxis<T> axis(low, high, size, bins);
    first_.assign(bins, 0);
    offset_.assign(1, 0);
    weights_.clear();
    for (int bin = 0; bin < bins; ++bin) {
      for (int point = 0; point < axis.points; ++point) {
        const AxisSample<T> sample = axis.sample(bin, point);
        add(bin, sample.low, sample.low_weight);
        add(bin, sample.high, sample.high_weight);
      }
      offset_.push_back(static_cast<int>(weights_.size()));
    }
  }

  int num_bins() const { return static_cast<int>(first_.size()); }

  BinTaps<T> operator[](int bin) const {
    return {first_[bin], offset_[bin + 1] - offset_[bin], weights_.data() + offset_[bin]};
  }

  // The first line that any bin reads, and one past the last.
  std::pair<int, int> lines() const {
    int begin = std::numeric_limits<int>::max();
    int end = 0;
    for (int bin = 0; bin < num_bins(); ++bin) {
      const BinTaps<T> taps = (*this)[bin];
      if (taps.count > 0) {
        begin = std::min(begin, taps.first);
        end = std::max(end, taps.first + taps.count);
      }
    }
    return {std::min(begin, end), end};
  }

 private:
  void add(int bin, int line, T weight) {
    if (weight == T(0)) {
      return;
    }
    const std::size_t begin = offset_[bin];
    if (weights_.size() == begin) {
      first_[bin] = line;
    }
    const std::size_t at = begin + (line - first_[bin]);
    weights_.resize(std::max(weights_.size(), at + 1), T(0));
    weights_[at] += weight;
  }

  std::vector<int> first_;
  std::vector<int> offset_;
  std::vector<T> weights_;
};

template <typename T>
struct BoxTaps {
  bool valid = false;
  AxisTaps<T> rows;
  AxisTaps<T> columns;
};

// Vectors of channels that are pooled at once: they hide each other's latency and share the
// weights.
constexpr int kSliceVectors = 4;
template <typename T>
constexpr int64_t kSliceLanes = kSliceVectors * kWideLanes<T>;

template <typename T>
struct Slice {
  Wide<T> of[kSliceVectors];

  STOA_INLINE_INTO_VERSIONS void add_scaled(T weight, const T* from) {
    for (int u = 0; u < kSliceVectors; ++u) {
      of[u] += weight * *reinterpret_cast<const Wide<T>*>(from + u * kWideLanes<T>);
    }
  }
};

// The largest bin of one box for a slice of channels. `map` (P, lanes); `row` has room for w
// slices.
template <typename T>
STOA_INLINE_INTO_VERSIONS void max_of_bins(
    const T* map, const BoxTaps<T>& box, int w, T* row, T* values, LaneInteger<T>* winner) {
  constexpr int64_t lanes = kSliceLanes<T>;
  Slice<T> best;
  WideIntegers<T> best_bin[kSliceVectors] = {};
  for (Wide<T>& values_of : best.of) {
    values_of = Wide<T>{} - std::numeric_limits<T>::infinity();
  }
  const auto [begin, end] = box.columns.lines();
  LaneInteger<T> bin = 0;
  for (int out_y = 0; out_y < box.rows.num_bins(); ++out_y) {
    const BinTaps<T> y = box.rows[out_y];
    for (int column = begin; column < end; ++column) {
      Slice<T> sum = {};
      for (int t = 0; t < y.count; ++t) {
        sum.add_scaled(y.weights[t], map + (int64_t{y.first + t} * w + column) * lanes);
      }
      *reinterpret_cast<Slice<T>*>(row + column * lanes) = sum;
    }
    for (int out_x = 0; out_x < box.columns.num_bins(); ++out_x, ++bin) {
      const BinTaps<T> x = box.columns[out_x];
      Slice<T> value = {};
      for (int t = 0; t < x.count; ++t) {
        value.add_scaled(x.weights[t], row + (x.first + t) * lanes);
      }
      for (int u = 0; u < kSliceVectors; ++u) {
        // The first NaN wins, as in torch.max.
        const WideIntegers<T> better = ~(value.of[u] <= best.of[u]) & (best.of[u] == best.of[u]);
        best.of[u] = better ? value.of[u] : best.of[u];
        best_bin[u] = better ? WideIntegers<T>{} + bin : best_bin[u];
      }
    }
  }
  for (int u = 0; u < kSliceVectors; ++u) {
    *reinterpret_cast<Wide<T>*>(values + u * kWideLanes<T>) = best.of[u];
    *reinterpret_cast<WideIntegers<T>*>(winner + u * kWideLanes<T>) = best_bin[u];
  }
}

STOA_MULTIVERSION void max_of_bins_of(
    const float* map,
    const BoxTaps<float>& box,
    int w,
    float* row,
    float* values,
    int32_t* winner) {
  max_of_bins<float>(map, box, w, row, values, winner);
}

STOA_MULTIVERSION void max_of_bins_of(
    const double* map,
    const BoxTaps<double>& box,
    int w,
    double* row,
    double* values,
    int64_t* winner) {
  max_of_bins<double>(map, box, w, row, values, winner);
}

template <typename T>
void assign_taps(BoxTaps<T>& taps, const T* box, const RoiGrid& grid) {
  taps.rows.assign(box[1], box[3], grid.h, grid.out_h);
  taps.columns.assign(box[0], box[2], grid.w, grid.out_w);
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> roi_align_max_cpu(
    const at::Tensor& tokens,
    const at::Tensor& boxes,
    const at::Tensor& valid,
    at::IntArrayRef grid_hw,
    at::IntArrayRef output_size) {
  const RoiGrid grid = checked_grid(grid_hw, output_size);
  check_roi_forward(tokens, boxes, valid, grid);
  const int64_t F = tokens.size(0), P = tokens.size(1), C = tokens.size(2), K = boxes.size(1);
  at::Tensor values = at::empty({F, K, C}, tokens.options());
  at::Tensor winner = at::empty({F, K, C}, tokens.options().dtype(at::kShort));
  const at::Tensor boxes_of = boxes.contiguous(), valid_of = valid.contiguous();

  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, tokens.scalar_type(), "roi_align_max", [&] {
        using T = at::opmath_type<scalar_t>;
        constexpr int64_t lanes = kSliceLanes<T>;
        const auto tokens_of = tokens.accessor<const scalar_t, 3>();
        const T* box_of = boxes_of.const_data_ptr<T>();
        const bool* is_valid = valid_of.const_data_ptr<bool>();
        scalar_t* values_of = values.mutable_data_ptr<scalar_t>();
        int16_t* winner_of = winner.mutable_data_ptr<int16_t>();
        at::parallel_for(0, F, 1, [&](int64_t begin, int64_t end) {
          std::vector<BoxTaps<T>> taps(K);
          WideBuffer<T> map(P * lanes), row(grid.w * lanes);
          alignas(kWideBytes) T best[lanes];
          alignas(kWideBytes) LaneInteger<T> bins[lanes];
          for (int64_t f = begin; f < end; ++f) {
            for (int64_t k = 0; k < K; ++k) {
              const T* box = box_of + (f * K + k) * 4;
              taps[k].valid = is_valid[f * K + k] && is_box(box);
              if (taps[k].valid) {
                assign_taps(taps[k], box, grid);
              }
            }
            for (int64_t c = 0; c < C; c += lanes) {
              const int64_t used = std::min(lanes, C - c);
              for (int64_t p = 0; p < P; ++p) {
                for (int64_t lane = 0; lane < used; ++lane) {
                  map.data()[p * lanes + lane] = static_cast<T>(tokens_of[f][p][c + lane]);
                }
              }
              for (int64_t k = 0; k < K; ++k) {
                const int64_t at = (f * K + k) * C + c;
                if (!taps[k].valid) {
                  std::fill_n(values_of + at, used, scalar_t(0));
                  std::fill_n(winner_of + at, used, int16_t{-1});
                  continue;
                }
                max_of_bins_of(map.data(), taps[k], grid.w, row.data(), best, bins);
                for (int64_t lane = 0; lane < used; ++lane) {
                  values_of[at + lane] = static_cast<scalar_t>(best[lane]);
                  winner_of[at + lane] = static_cast<int16_t>(bins[lane]);
                }
              }
            }
          }
        });
      });
  return {values, winner};
}

namespace {

// Adds the gradient of the winning bins of one box to the map (P, lanes) of a slice of channels.
template <typename T, typename scalar_t>
void scatter(
    const scalar_t* grad,
    const int16_t* winner,
    int64_t used,
    const BoxTaps<T>& box,
    const RoiGrid& grid,
    T* map) {
  constexpr int64_t lanes = kSliceLanes<T>;
  for (int64_t lane = 0; lane < used; ++lane) {
    if (winner[lane] < 0) {
      continue;
    }
    const T value = static_cast<T>(grad[lane]);
    const BinTaps<T> y = box.rows[winner[lane] / grid.out_w];
    const BinTaps<T> x = box.columns[winner[lane] % grid.out_w];
    for (int i = 0; i < y.count; ++i) {
      for (int j = 0; j < x.count; ++j) {
        map[((y.first + i) * grid.w + x.first + j) * lanes + lane] +=
            value * y.weights[i] * x.weights[j];
      }
    }
  }
}

}  // namespace

at::Tensor roi_align_max_backward_cpu(
    const at::Tensor& grad,
    const at::Tensor& winner,
    const at::Tensor& boxes,
    at::IntArrayRef grid_hw,
    at::IntArrayRef output_size) {
  const RoiGrid grid = checked_grid(grid_hw, output_size);
  check_roi_backward(grad, winner, boxes);
  const int64_t F = grad.size(0), K = grad.size(1), C = grad.size(2), P = grid.patches();
  at::Tensor grad_tokens = at::empty({F, P, C}, grad.options());
  const at::Tensor grad_of = grad.contiguous(), winner_of = winner.contiguous(),
                   boxes_of = boxes.contiguous();

  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, grad.scalar_type(), "roi_align_max_backward", [&] {
        using T = at::opmath_type<scalar_t>;
        constexpr int64_t lanes = kSliceLanes<T>;
        const T* box_of = boxes_of.const_data_ptr<T>();
        const int16_t* winners = winner_of.const_data_ptr<int16_t>();
        const scalar_t* grads = grad_of.const_data_ptr<scalar_t>();
        scalar_t* out = grad_tokens.mutable_data_ptr<scalar_t>();
        const int16_t num_bins = static_cast<int16_t>(grid.out_h * grid.out_w);
        for (int64_t i = 0; i < winner_of.numel(); ++i) {
          TORCH_CHECK_VALUE(
              winners[i] >= -1 && winners[i] < num_bins,
              "winner has a bin ",
              winners[i],
              " of ",
              num_bins);
        }
        at::parallel_for(0, F, 1, [&](int64_t begin, int64_t end) {
          std::vector<BoxTaps<T>> taps(K);
          WideBuffer<T> map(P * lanes);
          for (int64_t f = begin; f < end; ++f) {
            for (int64_t k = 0; k < K; ++k) {
              const T* box = box_of + (f * K + k) * 4;
              taps[k].valid = is_box(box);
              if (taps[k].valid) {
                assign_taps(taps[k], box, grid);
              }
            }
            for (int64_t c = 0; c < C; c += lanes) {
              const int64_t used = std::min(lanes, C - c);
              std::fill_n(map.data(), P * lanes, T(0));
              for (int64_t k = 0; k < K; ++k) {
                const int64_t at = (f * K + k) * C + c;
                if (taps[k].valid) {
                  scatter<T>(grads + at, winners + at, used, taps[k], grid, map.data());
                }
              }
              for (int64_t p = 0; p < P; ++p) {
                for (int64_t lane = 0; lane < used; ++lane) {
                  out[(f * P + p) * C + c + lane] =
                      static_cast<scalar_t>(map.data()[p * lanes + lane]);
                }
              }
            }
          }
        });
      });
  return grad_tokens;
}

}  // namespace stoa
