#pragma once

// RoIAlign and the maximum over its bins. A block owns one frame and a slice of channels, a thread
// owns its channels for good: no two threads ever add to one place, and sums have one order.

#include "../roi_axis.h"
#include "device.cuh"

namespace stoa {

template <typename scalar_t>
struct RoiAlignMaxArguments {
  using T = typename Accumulator<scalar_t>::type;

  const scalar_t* tokens;  // (F, P, C), any strides of frame and patch, channels side by side
  int64_t frame_stride;
  int patch_stride;   // a frame spans less than 2^31 elements
  const T* boxes;     // (F, K, 4)
  const bool* valid;  // (F, K)
  scalar_t* values;   // (F, K, C)
  int16_t* winner;    // (F, K, C)
  int64_t num_frames;
  int num_boxes;
  int num_channels;
  RoiGrid grid;
};

template <typename scalar_t>
struct RoiAlignMaxBackwardArguments {
  using T = typename Accumulator<scalar_t>::type;

  const scalar_t* grad;   // (F, K, C)
  const int16_t* winner;  // (F, K, C)
  const T* boxes;         // (F, K, 4)
  scalar_t* grad_tokens;  // (F, P, C)
  int64_t num_frames;
  int num_boxes;
  int num_channels;
  RoiGrid grid;
};

// Offsets are 64 bit: a batch of a few hundred clips holds more than 2^31 elements.
STOA_HOST_DEVICE inline int64_t roi_offset(
    int64_t frame, int64_t inner, int64_t inner_size, int64_t channels) {
  return (frame * inner_size + inner) * channels;
}

// Double precision serves to check gradients; its maps are read through the caches.
template <typename scalar_t>
inline constexpr bool kRoiStageable = sizeof(scalar_t) <= 4;

// Channels of one thread: two of a 16-bit type share a word of shared memory.
template <typename scalar_t, bool kStaged>
inline constexpr int kRoiChannels = kStaged && sizeof(scalar_t) == 2 ? 2 : 1;
inline constexpr int kRoiForwardWarps = 8;
inline constexpr int kRoiBackwardWarps = 4;

template <typename scalar_t>
struct alignas(sizeof(scalar_t) * kRoiChannels<scalar_t, true>) StagedChannels {
  scalar_t of[kRoiChannels<scalar_t, true>];
};

template <typename T>
STOA_HOST_DEVICE int row_samples(const RoiGrid& grid) {
  return grid.out_h * RoiAxis<T>::max_points(grid.h, grid.out_h);
}

template <typename T>
STOA_HOST_DEVICE int column_samples(const RoiGrid& grid) {
  return grid.out_w * RoiAxis<T>::max_points(grid.w, grid.out_w);
}

// Warps of a forward block: one a box, fewer where their tables of samples would not fit.
template <typename scalar_t>
inline int roi_forward_warps(const RoiGrid& grid, int num_boxes) {
  using T = typename Accumulator<scalar_t>::type;
  const std::size_t table =
      (row_samples<T>(grid) + column_samples<T>(grid)) * sizeof(AxisSample<T>) + 32;
  const int fitting = static_cast<int>(kMaxSharedBytes / 2 / table);
  const int wanted = num_boxes < kRoiForwardWarps ? num_boxes : kRoiForwardWarps;
  return wanted < fitting ? (wanted > 1 ? wanted : 1) : (fitting > 1 ? fitting : 1);
}

// `staged`: whether the slice of the map fits in shared memory; else it is read through the caches.
template <typename scalar_t>
inline LaunchShape roi_align_max_shape(
    const RoiGrid& grid, int64_t num_frames, int num_boxes, int num_channels, bool* staged) {
  using T = typename Accumulator<scalar_t>::type;
  const int warps = roi_forward_warps<scalar_t>(grid, num_boxes);
  SharedPlan tables;
  tables.array<AxisSample<T>>(static_cast<std::size_t>(warps) * row_samples<T>(grid));
  tables.array<AxisSample<T>>(static_cast<std::size_t>(warps) * column_samples<T>(grid));
  SharedPlan with_map = tables;
  with_map.array<StagedChannels<scalar_t>>(static_cast<std::size_t>(grid.patches()) * kWarpSize);
  *staged = kRoiStageable<scalar_t> && with_map.bytes <= kMaxSharedBytes;
  const int slice =
      kWarpSize * (*staged ? kRoiChannels<scalar_t, true> : kRoiChannels<scalar_t, false>);
  const std::size_t shared_bytes = *staged ? with_map.bytes : tables.bytes;
  return {num_frames, (num_channels + slice - 1) / slice, 1, warps * kWarpSize, shared_bytes};
}

// The map of one frame, seen by one thread.
template <typename scalar_t, bool kStaged>
class RoiMap {
 public:
  using T = typename Accumulator<scalar_t>::type;

  // A channel past the last one reads the last, and is not stored.
  __device__ RoiMap(
      const RoiAlignMaxArguments<scalar_t>& args,
      const StagedChannels<scalar_t>* staged,
      int channel)
      : patch_stride_(args.patch_stride),
        staged_(kStaged ? staged + threadIdx.x % kWarpSize : nullptr),
        width_(args.grid.w),
        next_(channel + 1 < args.num_channels ? 1 : 0) {
    const int read = channel < args.num_channels ? channel : args.num_channels - 1;
    tokens_ = args.tokens + static_cast<int64_t>(blockIdx.x) * args.frame_stride + read;
  }

  // Channel `v` of this thread.
  __device__ scalar_t load(int patch, int v) const {
    return tokens_[patch * patch_stride_ + v * next_];
  }

  // Adds a patch with a weight to the sums of the channels.
  __device__ void add(int row, int column, T weight, T* sums) const {
    const int patch = row * width_ + column;
    if constexpr (kStaged) {
      const StagedChannels<scalar_t> channels = staged_[patch * kWarpSize];
      for (int v = 0; v < kRoiChannels<scalar_t, true>; ++v) {
        sums[v] += weight * accumulate_as(channels.of[v]);
      }
    } else {
      sums[0] += weight * accumulate_as(load(patch, 0));
    }
  }

 private:
  const scalar_t* tokens_;
  int patch_stride_;
  const StagedChannels<scalar_t>* staged_;
  int width_;
  int next_;
};

// One column of the map, averaged over the sampling points of a row of bins. Neighbouring points of
// a bin row share columns, so the last two are kept.
template <typename scalar_t, bool kStaged>
class RoiColumns {
 public:
  using T = typename Accumulator<scalar_t>::type;
  static constexpr int V = kRoiChannels<scalar_t, kStaged>;

  __device__ RoiColumns(const RoiMap<scalar_t, kStaged>& map, const AxisSample<T>* rows, int points)
      : map_(map), rows_(rows), points_(points) {}

  __device__ void add_point(const AxisSample<T>& x, T* sums) {
    move_to(x);
    for (int v = 0; v < V; ++v) {
      sums[v] += x.low_weight * low_[v] + x.high_weight * high_[v];
    }
  }

 private:
  __device__ void move_to(const AxisSample<T>& x) {
    if (x.low == high_column_) {
      for (int v = 0; v < V; ++v) {
        low_[v] = high_[v];
      }
    } else if (x.low != low_column_) {
      average(x.low, low_);
    }
    low_column_ = x.low;
    if (x.high != high_column_) {
      average(x.high, high_);
      high_column_ = x.high;
    }
  }

  __device__ void average(int column, T* sums) const {
    for (int v = 0; v < V; ++v) {
      sums[v] = T(0);
    }
#pragma unroll 1  // one point is the rule
    for (int point = 0; point < points_; ++point) {
      const AxisSample<T> y = rows_[point];
      map_.add(y.low, column, y.low_weight, sums);
      map_.add(y.high, column, y.high_weight, sums);
    }
  }

  const RoiMap<scalar_t, kStaged>& map_;
  const AxisSample<T>* rows_;
  int points_;
  int low_column_ = -1;
  int high_column_ = -1;
  T low_[V];
  T high_[V];
};

// grid: frames x slices of channels; a warp takes every `warps`-th box, a lane V neighbouring
// channels.
template <typename scalar_t, bool kStaged>
__global__ void __launch_bounds__(kRoiForwardWarps* kWarpSize)
    roi_align_max_forward(const RoiAlignMaxArguments<scalar_t> args) {
  using T = typename Accumulator<scalar_t>::type;
  constexpr int V = kRoiChannels<scalar_t, kStaged>;
  const RoiGrid grid = args.grid;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize,
            warps = blockDim.x / kWarpSize;
  const int channel = (blockIdx.y * kWarpSize + lane) * V;

  SharedMemory shared;
  const int num_rows = row_samples<T>(grid), num_columns = column_samples<T>(grid);
  AxisSample<T>* rows =
      shared.array<AxisSample<T>>(static_cast<std::size_t>(warps) * num_rows) + warp * num_rows;
  AxisSample<T>* columns =
      shared.array<AxisSample<T>>(static_cast<std::size_t>(warps) * num_columns) +
      warp * num_columns;
  StagedChannels<scalar_t>* staged = nullptr;
  if (kStaged) {
    staged = shared.array<StagedChannels<scalar_t>>(
        static_cast<std::size_t>(grid.patches()) * kWarpSize);
  }
  const RoiMap<scalar_t, kStaged> map(args, staged, channel);
  if (kStaged) {
    for (int patch = warp; patch < grid.patches(); patch += warps) {
      for (int v = 0; v < V; ++v) {
        staged[patch * kWarpSize + lane].of[v] = map.load(patch, v);
      }
    }
    __syncthreads();
  }

  for (int k = warp; k < args.num_boxes; k += warps) {
    const int64_t box_index = static_cast<int64_t>(blockIdx.x) * args.num_boxes + k;
    const T* box = args.boxes + box_index * 4;
    T best[V];
    int winner[V];
    const bool valid = args.valid[box_index] && is_box(box);
    for (int v = 0; v < V; ++v) {
      best[v] = valid ? -infinity<T>() : T(0);
      winner[v] = valid ? 0 : -1;
    }
    if (valid) {
      const RoiAxis<T> y_axis(box[1], box[3], grid.h, grid.out_h),
          x_axis(box[0], box[2], grid.w, grid.out_w);
      __syncwarp();  // the lanes are done with the tables of the last box
      for (int i = lane; i < grid.out_h * y_axis.points; i += kWarpSize) {
        rows[i] = y_axis.sample(i / y_axis.points, i % y_axis.points);
      }
      for (int i = lane; i < grid.out_w * x_axis.points; i += kWarpSize) {
        columns[i] = x_axis.sample(i / x_axis.points, i % x_axis.points);
      }
      __syncwarp();
      int bin = 0;
      const AxisSample<T>* y = rows;
      for (int out_y = 0; out_y < grid.out_h; ++out_y, y += y_axis.points) {
        RoiColumns<scalar_t, kStaged> row_of_bins(map, y, y_axis.points);
        const AxisSample<T>* x = columns;
        for (const int row_end = bin + grid.out_w; bin < row_end; ++bin) {
          T value[V] = {};
#pragma unroll 1
          for (const AxisSample<T>* end = x + x_axis.points; x < end; ++x) {
            row_of_bins.add_point(*x, value);
          }
          for (int v = 0; v < V; ++v) {
            // The first NaN wins, as in torch.max.
            if (!(value[v] <= best[v]) && best[v] == best[v]) {
              best[v] = value[v];
              winner[v] = bin;
            }
          }
        }
      }
    }
    for (int v = 0; v < V && channel + v < args.num_channels; ++v) {
      const int64_t at = roi_offset(blockIdx.x, k, args.num_boxes, args.num_channels) + channel + v;
      args.values[at] = Store<scalar_t>::from(best[v]);
      args.winner[at] = static_cast<int16_t>(winner[v]);
    }
  }
}

// Patches whose gradients a block sums in shared memory.
template <typename scalar_t>
inline int roi_band(const RoiGrid& grid) {
  using T = typename Accumulator<scalar_t>::type;
  const int fitting = static_cast<int>(kMaxSharedBytes / (kWarpSize * sizeof(T)));
  return grid.patches() < fitting ? grid.patches() : fitting;
}

template <typename scalar_t>
inline LaunchShape roi_align_max_backward_shape(
    const RoiGrid& grid, int64_t num_frames, int num_channels) {
  using T = typename Accumulator<scalar_t>::type;
  const int band = roi_band<scalar_t>(grid);
  SharedPlan plan;
  plan.array<T>(static_cast<std::size_t>(band) * kWarpSize);
  return {
      num_frames,
      (num_channels + kWarpSize - 1) / kWarpSize,
      (grid.patches() + band - 1) / band,
      kRoiBackwardWarps * kWarpSize,
      plan.bytes};
}

// grid: frames x slices of channels x bands of patches; a lane owns one channel, a warp every
// fourth patch.
template <typename scalar_t>
__global__ void __launch_bounds__(kRoiBackwardWarps* kWarpSize)
    roi_align_max_backward(const RoiAlignMaxBackwardArguments<scalar_t> args, int band) {
  using T = typename Accumulator<scalar_t>::type;
  const RoiGrid grid = args.grid;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int channel = blockIdx.y * kWarpSize + lane;
  const int begin = blockIdx.z * band;
  const int end = begin + band < grid.patches() ? begin + band : grid.patches();
  if (channel >= args.num_channels) {
    return;  // threads share nothing here
  }
  SharedMemory shared;
  T* sums = shared.array<T>(static_cast<std::size_t>(band) * kWarpSize);
  for (int patch = begin + warp; patch < end; patch += kRoiBackwardWarps) {
    sums[(patch - begin) * kWarpSize + lane] = T(0);
  }
  for (int k = 0; k < args.num_boxes; ++k) {
    const int64_t at = roi_offset(blockIdx.x, k, args.num_boxes, args.num_channels) + channel;
    const int bin = args.winner[at];
    if (bin < 0 || bin >= grid.out_h * grid.out_w) {
      continue;
    }
    const T* box = args.boxes + (static_cast<int64_t>(blockIdx.x) * args.num_boxes + k) * 4;
    const RoiAxis<T> y_axis(box[1], box[3], grid.h, grid.out_h),
        x_axis(box[0], box[2], grid.w, grid.out_w);
    const T grad = accumulate_as(args.grad[at]);
    const int out_y = bin / grid.out_w, out_x = bin % grid.out_w;
    for (int i = 0; i < y_axis.points; ++i) {
      const AxisSample<T> y = y_axis.sample(out_y, i);
      for (int j = 0; j < x_axis.points; ++j) {
        const AxisSample<T> x = x_axis.sample(out_x, j);
        for (int corner = 0; corner < 4; ++corner) {
          const int patch = (corner < 2 ? y.low : y.high) * grid.w + (corner % 2 ? x.high : x.low);
          const T weight = (corner < 2 ? y.low_weight : y.high_weight) *
                           (corner % 2 ? x.high_weight : x.low_weight);
          if (patch >= begin && patch < end && (patch - begin) % kRoiBackwardWarps == warp) {
            sums[(patch - begin) * kWarpSize + lane] += grad * weight;
          }
        }
      }
    }
  }
  for (int patch = begin + warp; patch < end; patch += kRoiBackwardWarps) {
    const int64_t at = roi_offset(blockIdx.x, patch, grid.patches(), args.num_channels) + channel;
    args.grad_tokens[at] = Store<scalar_t>::from(sums[(patch - begin) * kWarpSize + lane]);
  }
}

}  // namespace stoa
