#pragma once

// RoIAlign and the maximum over its bins. A block owns one frame and a slice of channels.

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
  scalar_t* values;   // (F, K, C), as `winner` aligned to 16 bytes
  int16_t* winner;    // (F, K, C)
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

// Warps of a block, and blocks that share the registers of a multiprocessor with nothing spilled.
inline constexpr int kRoiForwardWarps = 5;
inline constexpr int kRoiForwardBlocks = 4;

// How a warp lies on a box. The lanes of a group lie side by side on the channels, and its groups
// take the rows of bins in turn: all lanes cross the same columns, so a warp branches as one. Of a
// staged map a lane reads 16 bytes of a patch and a group 128, once each bank of shared memory.
template <typename scalar_t, bool kStaged>
struct RoiWarp {
  static constexpr int kChannels = kStaged ? 16 / sizeof(scalar_t) : 1;  // of a lane
  static constexpr int kLanes = kStaged ? 8 : kWarpSize;                 // of a group
  static constexpr int kSlice = kLanes * kChannels;
};

// Channels that move in one access.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Channels {
  T of[kCount];
};

// `left` channels exist from `to` on. `whole`: the lanes have none past the last one.
template <typename T, int kCount>
__device__ __forceinline__ void store_channels(
    const Channels<T, kCount>& channels, T* to, int left, bool whole) {
  if (whole && left > 0) {
    *reinterpret_cast<Channels<T, kCount>*>(to) = channels;
    return;
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (i < left) {
      to[i] = channels.of[i];
    }
  }
}

template <typename scalar_t>
using StagedChannels = Channels<scalar_t, RoiWarp<scalar_t, true>::kChannels>;

// Most samples of a box, along both axes.
template <typename T>
STOA_HOST_DEVICE int box_samples(const RoiGrid& grid) {
  return grid.out_h * RoiAxis<T>::max_points(grid.h, grid.out_h) +
         grid.out_w * RoiAxis<T>::max_points(grid.w, grid.out_w);
}

// Warps of a forward block, each with a table of samples: as many as have equally many boxes.
template <typename scalar_t>
inline int roi_forward_warps(const RoiGrid& grid, int num_boxes) {
  using T = typename Accumulator<scalar_t>::type;
  const std::size_t table = box_samples<T>(grid) * sizeof(AxisSample<T>) + 16;
  const int fitting = static_cast<int>(kMaxSharedBytes / 2 / table);
  const int most = fitting < 1 ? 1 : (fitting < kRoiForwardWarps ? fitting : kRoiForwardWarps);
  const int rounds = num_boxes > most ? (num_boxes + most - 1) / most : 1;
  return num_boxes > 1 ? (num_boxes + rounds - 1) / rounds : 1;
}

// `staged`: whether the slice of the map fits in shared memory; else it is read through the caches.
template <typename scalar_t>
inline LaunchShape roi_align_max_shape(
    const RoiGrid& grid, int64_t num_frames, int num_boxes, int num_channels, bool* staged) {
  using T = typename Accumulator<scalar_t>::type;
  using Staged = RoiWarp<scalar_t, true>;
  const int warps = roi_forward_warps<scalar_t>(grid, num_boxes);
  SharedPlan tables;
  tables.array<AxisSample<T>>(static_cast<std::size_t>(warps) * box_samples<T>(grid));
  SharedPlan with_map = tables;
  with_map.array<StagedChannels<scalar_t>>(
      static_cast<std::size_t>(grid.patches()) * Staged::kLanes);
  with_map.array<bool>(warps);
  *staged = kRoiStageable<scalar_t> && with_map.bytes <= kMaxSharedBytes;
  const int slice = *staged ? Staged::kSlice : RoiWarp<scalar_t, false>::kSlice;
  const std::size_t shared_bytes = *staged ? with_map.bytes : tables.bytes;
  return {num_frames, (num_channels + slice - 1) / slice, 1, warps * kWarpSize, shared_bytes};
}

// The channels of one thread in the map of one frame. A channel past the last one reads the last,
// and is not stored.
template <typename scalar_t, bool kStaged>
class RoiMap {
 public:
  using T = typename Accumulator<scalar_t>::type;
  static constexpr int V = RoiWarp<scalar_t, kStaged>::kChannels;
  static constexpr int kLanes = RoiWarp<scalar_t, kStaged>::kLanes;
  using Packed = Channels<scalar_t, V>;

  __device__ RoiMap(const RoiAlignMaxArguments<scalar_t>& args, Packed* staged, int channel)
      : tokens_(args.tokens + static_cast<int64_t>(blockIdx.x) * args.frame_stride),
        patch_stride_(args.patch_stride),
        staged_(kStaged ? staged + threadIdx.x % kLanes : nullptr),
        width_(args.grid.w),
        channel_(channel),
        last_(args.num_channels - 1) {}

  // Copies the map of the block into shared memory, its threads together. Returns whether the
  // thread saw numbers alone, far enough from infinity for all averages to be numbers.
  template <bool kAligned>
  __device__ bool stage(int patches) const {
    constexpr int kInFlight = kAligned ? 4 : 1;
    const int step = blockDim.x / kLanes;
    T sum = T(0);
    for (int first = threadIdx.x / kLanes; first < patches; first += kInFlight * step) {
      Packed loaded[kInFlight];
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        const int patch = first + i * step < patches ? first + i * step : first;
        loaded[i] = load<kAligned>(patch);
      }
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        if (first + i * step < patches) {
          staged_[(first + i * step) * kLanes] = loaded[i];
        }
        for (int v = 0; v < V; ++v) {
          sum += fabs(accumulate_as(loaded[i].of[v]));
        }
      }
    }
    return T(4) * sum < infinity<T>();
  }

  // Adds a column between two rows to the sums of the channels.
  __device__ void add(const AxisSample<T>& y, int column, T* sums) const {
    const Packed low = at(y.low * width_ + column), high = at(y.high * width_ + column);
    for (int v = 0; v < V; ++v) {
      sums[v] += y.low_weight * accumulate_as(low.of[v]);
      sums[v] += y.high_weight * accumulate_as(high.of[v]);
    }
  }

 private:
  __device__ Packed at(int patch) const {
    if constexpr (kStaged) {
      return staged_[patch * kLanes];
    } else {
      return load<false>(patch);
    }
  }

  template <bool kAligned>
  __device__ Packed load(int patch) const {
    const scalar_t* from = tokens_ + patch * patch_stride_;
    if constexpr (kAligned) {
      return *reinterpret_cast<const Packed*>(from + (channel_ < last_ ? channel_ : last_ + 1 - V));
    } else {
      Packed channels;
      for (int v = 0; v < V; ++v) {
        channels.of[v] = from[channel_ + v < last_ ? channel_ + v : last_];
      }
      return channels;
    }
  }

  const scalar_t* tokens_;
  int patch_stride_;
  Packed* staged_;
  int width_;
  int channel_;
  int last_;
};

// The map averaged over the sampling points of a row of bins, column by column. Neighbouring
// points along the row share columns, so the last two are kept. `kOnePoint`: a row of bins has
// one.
template <typename scalar_t, bool kStaged, bool kOnePoint>
class RoiColumns {
 public:
  using T = typename Accumulator<scalar_t>::type;
  static constexpr int V = RoiWarp<scalar_t, kStaged>::kChannels;

  __device__ RoiColumns(const RoiMap<scalar_t, kStaged>& map, const AxisSample<T>* rows, int points)
      : map_(map), first_(rows[0]), rows_(rows), points_(points) {}

  __device__ void add_point(const AxisSample<T>& x, T* sums) {
    // One branch, which costs less than to save the second comparison.
    if ((x.low ^ low_column_) | (x.high ^ high_column_)) {
      move_to(x);
    }
    for (int v = 0; v < V; ++v) {
      sums[v] += x.low_weight * low_[v];
      sums[v] += x.high_weight * high_[v];
    }
  }

 private:
  __device__ void move_to(const AxisSample<T>& x) {
    if (x.low == high_column_) {
      for (int v = 0; v < V; ++v) {
        low_[v] = high_[v];
      }
    } else {
      average(x.low, low_);
    }
    average(x.high, high_);
    low_column_ = x.low;
    high_column_ = x.high;
  }

  __device__ void average(int column, T* sums) const {
    for (int v = 0; v < V; ++v) {
      sums[v] = T(0);
    }
    if constexpr (kOnePoint) {
      map_.add(first_, column, sums);
    } else {
#pragma unroll 1
      for (int point = 0; point < points_; ++point) {
        map_.add(rows_[point], column, sums);
      }
    }
  }

  const RoiMap<scalar_t, kStaged>& map_;
  AxisSample<T> first_;
  const AxisSample<T>* rows_;
  int points_;
  int low_column_ = -1;
  int high_column_ = -1;
  T low_[V];
  T high_[V];
};

// Largest of the bins seen so far, and which that is: the first of equal ones, and of NaNs, which
// win over numbers as in torch.max.
template <typename T>
struct RoiMaximum {
  T value;
  int bin;

  // `kNumber`: `later` is no NaN.
  template <bool kNumber>
  __device__ void meet(T later, int later_bin) {
    if (kNumber ? later > value : !(later <= value) && value == value) {
      value = later;
      bin = later_bin;
    }
  }

  // With what the lane `distance` away has seen.
  __device__ void meet_lane(int distance) {
    const T other = __shfl_xor_sync(kFullWarp, value, distance);
    const int other_bin = __shfl_xor_sync(kFullWarp, bin, distance);
    const bool ahead = other_bin < bin;
    RoiMaximum first = {ahead ? other : value, ahead ? other_bin : bin};
    first.meet<false>(ahead ? value : other, ahead ? bin : other_bin);
    *this = first;
  }
};

// Sampling points a bin, along each axis.
struct RoiPoints {
  int rows;
  int columns;
};

// Fills the table of a box, first its rows, the lanes of a warp together.
template <typename T>
__device__ RoiPoints sample_box(const T* box, const RoiGrid& grid, AxisSample<T>* table) {
  const RoiAxis<T> y(box[1], box[3], grid.h, grid.out_h), x(box[0], box[2], grid.w, grid.out_w);
  const int num_rows = grid.out_h * y.points, num_samples = num_rows + grid.out_w * x.points;
#pragma unroll 1
  for (int i = threadIdx.x % kWarpSize; i < num_samples; i += kWarpSize) {
    const RoiAxis<T> axis = i < num_rows ? y : x;
    const int at = i < num_rows ? i : i - num_rows;
    table[i] = axis.sample(at / axis.points, at % axis.points);
  }
  return {y.points, x.points};
}

// The rows of bins `first`, `first` + `step`, ... `kPlain`: of numbers alone, bins of one point.
template <bool kPlain, typename scalar_t, bool kStaged, typename T>
__device__ __forceinline__ void scan_bins(
    const RoiMap<scalar_t, kStaged>& map,
    const AxisSample<T>* table,
    const RoiPoints& points_of,
    const RoiGrid& grid,
    int first,
    int step,
    RoiMaximum<T>* best) {
  constexpr int V = RoiWarp<scalar_t, kStaged>::kChannels;
  const RoiPoints points = kPlain ? RoiPoints{1, 1} : points_of;
  const AxisSample<T>* const columns = table + grid.out_h * points.rows;
  for (int v = 0; v < V; ++v) {
    best[v] = {-infinity<T>(), 0};
  }
  for (int out_y = first; out_y < grid.out_h; out_y += step) {
    RoiColumns<scalar_t, kStaged, kPlain> row_of_bins(
        map, table + out_y * points.rows, points.rows);
    const AxisSample<T>* x = columns;
    int bin = out_y * grid.out_w;
#pragma unroll 1
    for (const int row_end = bin + grid.out_w; bin < row_end; ++bin) {
      T value[V] = {};
#pragma unroll 1
      for (int point = 0; point < points.columns; ++point, ++x) {
        row_of_bins.add_point(*x, value);
      }
      for (int v = 0; v < V; ++v) {
        best[v].template meet<kPlain>(value[v], bin);
      }
    }
  }
}

// grid: frames x slices of channels; a warp takes every `warps`-th box.
template <typename scalar_t, bool kStaged>
__global__ void __launch_bounds__(kRoiForwardWarps* kWarpSize, kRoiForwardBlocks)
    roi_align_max_forward(const RoiAlignMaxArguments<scalar_t> args) {
  using T = typename Accumulator<scalar_t>::type;
  using Warp = RoiWarp<scalar_t, kStaged>;
  constexpr int V = Warp::kChannels, kGroups = kWarpSize / Warp::kLanes;
  const RoiGrid grid = args.grid;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize,
            warps = blockDim.x / kWarpSize, group = lane / Warp::kLanes;
  const int channel = blockIdx.y * Warp::kSlice + lane % Warp::kLanes * V;
  const bool whole = args.num_channels % V == 0;  // no lane has channels past the last one

  SharedMemory shared;
  const int num_samples = box_samples<T>(grid);
  AxisSample<T>* table =
      shared.array<AxisSample<T>>(static_cast<std::size_t>(warps) * num_samples) +
      warp * num_samples;
  Channels<scalar_t, V>* staged = nullptr;
  if (kStaged) {
    staged = shared.array<Channels<scalar_t, V>>(
        static_cast<std::size_t>(grid.patches()) * Warp::kLanes);
  }
  const RoiMap<scalar_t, kStaged> map(args, staged, channel);
  bool numbers = false;
  if (kStaged) {
    bool* numbers_of = shared.array<bool>(warps);
    const bool aligned =
        whole && args.frame_stride % V == 0 && args.patch_stride % V == 0 &&
        reinterpret_cast<std::size_t>(args.tokens) % sizeof(Channels<scalar_t, V>) == 0;
    const bool seen = aligned ? map.template stage<true>(grid.patches())
                              : map.template stage<false>(grid.patches());
    const bool all_seen = __all_sync(kFullWarp, seen);
    if (lane == 0) {
      numbers_of[warp] = all_seen;
    }
    __syncthreads();
    numbers = true;
    for (int i = 0; i < warps; ++i) {
      numbers = numbers && numbers_of[i];
    }
  }

  for (int k = warp; k < args.num_boxes; k += warps) {
    const int64_t box_index = static_cast<int64_t>(blockIdx.x) * args.num_boxes + k;
    const T* box = args.boxes + box_index * 4;
    const bool valid = args.valid[box_index] && is_box(box);
    RoiMaximum<T> best[V];
    if (valid) {
      const RoiPoints points = sample_box(box, grid, table);
      __syncwarp();
      if (kStaged && numbers && points.rows == 1 && points.columns == 1) {
        scan_bins<true>(map, table, points, grid, group, kGroups, best);
      } else {
        scan_bins<false>(map, table, points, grid, group, kGroups, best);
      }
#pragma unroll 1
      for (int distance = Warp::kLanes; distance < kWarpSize; distance *= 2) {
        for (int v = 0; v < V; ++v) {
          best[v].meet_lane(distance);
        }
      }
      __syncwarp();  // before the table holds the next box
    } else {
      for (int v = 0; v < V; ++v) {
        best[v] = {T(0), -1};
      }
    }
    if (group == 0) {
      const int64_t at = roi_offset(blockIdx.x, k, args.num_boxes, args.num_channels) + channel;
      Channels<scalar_t, V> values;
      Channels<int16_t, V> winner;
      for (int v = 0; v < V; ++v) {
        values.of[v] = Store<scalar_t>::from(best[v].value);
        winner.of[v] = static_cast<int16_t>(best[v].bin);
      }
      store_channels(values, args.values + at, args.num_channels - channel, whole);
      store_channels(winner, args.winner + at, args.num_channels - channel, whole);
    }
  }
}

}  // namespace stoa
