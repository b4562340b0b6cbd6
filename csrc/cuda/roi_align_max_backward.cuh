#pragma once

// The gradient of RoIAlign and the maximum over its bins. A block owns patches of one frame and a
// slice of channels, and each of its threads some of them: no two threads ever add to one place,
// and sums have one order.

#include "roi_align_max.cuh"

namespace stoa {

template <typename scalar_t>
struct RoiAlignMaxBackwardArguments {
  using T = typename Accumulator<scalar_t>::type;

  const scalar_t* grad;   // (F, K, C)
  const int16_t* winner;  // (F, K, C)
  const T* boxes;         // (F, K, 4)
  scalar_t* grad_tokens;  // (F, P, C), aligned to 16 bytes
  int64_t num_frames;
  int num_boxes;
  int num_channels;
  RoiGrid grid;
};

// Warps of a block, and blocks that share the registers of a multiprocessor with nothing spilled.
inline constexpr int kRoiBackwardWarps = 4;
inline constexpr int kRoiBackwardBlocks = 7;
inline constexpr int kRoiBackwardBoxes = 8;  // at a time

// What a block of the backward pass holds in shared memory: patches with sums of their gradients,
// and boxes that it adds to them before it takes others.
struct RoiTile {
  int patches;
  int boxes;
};

// The bin that won a channel, by row (-1: none) and column, and its gradient.
template <typename T>
struct RoiWinner {
  int16_t out_y;
  int16_t out_x;
  T grad;
};

// Of sums in shared memory that move in one access.
template <typename T>
using WideSums = Channels<T, 16 / sizeof(T)>;

template <typename T>
inline std::size_t roi_shared_bytes(const RoiGrid& grid, const RoiTile& tile) {
  const std::size_t boxes = tile.boxes;
  SharedPlan plan;
  plan.array<T>(static_cast<std::size_t>(tile.patches) * kWarpSize);
  plan.array<AxisSample<T>>(boxes * box_samples<T>(grid));
  plan.array<RoiPoints>(boxes);
  plan.array<RoiWinner<T>>(boxes * kWarpSize);
  return plan.bytes;
}

// Fewer boxes where their tables would not fit.
template <typename scalar_t>
inline RoiTile roi_tile(const RoiGrid& grid) {
  using T = typename Accumulator<scalar_t>::type;
  RoiTile tile = {0, kRoiBackwardBoxes};
  while (tile.boxes > 1 && roi_shared_bytes<T>(grid, tile) > kMaxSharedBytes / 2) {
    --tile.boxes;
  }
  const std::size_t taken = roi_shared_bytes<T>(grid, tile), row = kWarpSize * sizeof(T);
  const int fitting =
      taken < kMaxSharedBytes ? static_cast<int>((kMaxSharedBytes - taken) / row) : 0;
  tile.patches = grid.patches() < fitting ? grid.patches() : (fitting > 1 ? fitting : 1);
  return tile;
}

template <typename scalar_t>
inline LaunchShape roi_align_max_backward_shape(
    const RoiGrid& grid, int64_t num_frames, int num_channels) {
  const RoiTile tile = roi_tile<scalar_t>(grid);
  return {
      num_frames,
      (num_channels + kWarpSize - 1) / kWarpSize,
      (grid.patches() + tile.patches - 1) / tile.patches,
      kRoiBackwardWarps * kWarpSize,
      roi_shared_bytes<typename Accumulator<scalar_t>::type>(grid, tile)};
}

// Of the two lines of a sample the one that is even, or odd: neighbours are one of each. Weighs
// nothing where there is no such line.
template <typename T>
struct RoiLine {
  int line;
  T weight;

  __device__ RoiLine(const AxisSample<T> sample, int odd) {
    const bool is_low = (sample.low & 1) == odd;
    line = is_low ? sample.low : sample.high;
    weight = is_low ? sample.low_weight : sample.high_weight;
  }
};

// grid: frames x slices of channels x tiles of patches; a lane owns one channel, and a warp the
// patches in rows and columns of one parity: one of the four around a sampling point.
template <typename scalar_t>
__global__ void __launch_bounds__(kRoiBackwardWarps* kWarpSize, kRoiBackwardBlocks)
    roi_align_max_backward(const RoiAlignMaxBackwardArguments<scalar_t> args, const RoiTile tile) {
  using T = typename Accumulator<scalar_t>::type;
  const RoiGrid grid = args.grid;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int first_channel = blockIdx.y * kWarpSize, channel = first_channel + lane;
  const int begin = blockIdx.z * tile.patches;
  const int patches = tile.patches < grid.patches() - begin ? tile.patches : grid.patches() - begin;
  const int num_samples = box_samples<T>(grid);
  SharedMemory shared;
  constexpr int kWide = sizeof(WideSums<T>) / sizeof(T), kWideSums = kWarpSize / kWide;
  WideSums<T>* wide_sums =
      shared.array<WideSums<T>>(static_cast<std::size_t>(tile.patches) * kWideSums);
  AxisSample<T>* tables =
      shared.array<AxisSample<T>>(static_cast<std::size_t>(tile.boxes) * num_samples);
  RoiPoints* points_of = shared.array<RoiPoints>(tile.boxes);
  RoiWinner<T>* winners =
      shared.array<RoiWinner<T>>(static_cast<std::size_t>(tile.boxes) * kWarpSize) + lane;
  T* sums = reinterpret_cast<T*>(wide_sums) + lane;
  for (int i = threadIdx.x; i < patches * kWideSums; i += kRoiBackwardWarps * kWarpSize) {
    wide_sums[i] = {};
  }

  for (int first = 0; first < args.num_boxes; first += tile.boxes) {
    const int boxes = tile.boxes < args.num_boxes - first ? tile.boxes : args.num_boxes - first;
    __syncthreads();  // before the tables hold the next boxes
    for (int k = warp; k < boxes; k += kRoiBackwardWarps) {
      const int64_t box = static_cast<int64_t>(blockIdx.x) * args.num_boxes + first + k;
      RoiWinner<T> winner = {-1, 0, T(0)};
      if (channel < args.num_channels) {
        const int64_t at = box * args.num_channels + channel;
        const int bin = args.winner[at];
        if (bin >= 0 && bin < grid.out_h * grid.out_w) {
          winner.out_y = static_cast<int16_t>(bin / grid.out_w);
          winner.out_x = static_cast<int16_t>(bin % grid.out_w);
          winner.grad = accumulate_as(args.grad[at]);
        }
      }
      winners[k * kWarpSize] = winner;
      const RoiPoints points = sample_box(args.boxes + box * 4, grid, tables + k * num_samples);
      if (lane == 0) {
        points_of[k] = points;
      }
    }
    __syncthreads();
    for (int k = 0; k < boxes; ++k) {
      const RoiWinner<T> winner = winners[k * kWarpSize];
      if (winner.out_y < 0) {
        continue;
      }
      const RoiPoints points = points_of[k];
      const AxisSample<T>* rows = tables + k * num_samples;
      const AxisSample<T>* columns = rows + grid.out_h * points.rows;
#pragma unroll 1  // one point is the rule
      for (int i = 0; i < points.rows; ++i) {
        const RoiLine<T> y(rows[winner.out_y * points.rows + i], warp / 2);
#pragma unroll 1
        for (int j = 0; j < points.columns; ++j) {
          const RoiLine<T> x(columns[winner.out_x * points.columns + j], warp % 2);
          const int patch = y.line * grid.w + x.line - begin;
          const T weight = y.weight * x.weight;
          if (weight != T(0) && patch >= 0 && patch < patches) {
            sums[patch * kWarpSize] += winner.grad * weight;
          }
        }
      }
    }
  }

  __syncthreads();
  constexpr int V = 16 / sizeof(scalar_t), kLanes = kWarpSize / V;
  const int v_channel = first_channel + threadIdx.x % kLanes * V;
  const bool whole = args.num_channels % V == 0;
  for (int patch = threadIdx.x / kLanes; patch < patches;
       patch += kRoiBackwardWarps * kWarpSize / kLanes) {
    Channels<scalar_t, V> grads;
    for (int v = 0; v < V; ++v) {
      const int at = threadIdx.x % kLanes * V + v;
      grads.of[v] = Store<scalar_t>::from(wide_sums[patch * kWideSums + at / kWide].of[at % kWide]);
    }
    scalar_t* to = args.grad_tokens +
                   roi_offset(blockIdx.x, begin + patch, grid.patches(), args.num_channels) +
                   v_channel;
    store_channels(grads, to, args.num_channels - v_channel, whole);
  }
}

}  // namespace stoa
