#pragma once

// Attention within groups of tokens that share a label. A warp owns a row of several heads: lanes
// side by side share the width of a head, and every head sees the same rows, so a warp branches as
// one. Keys come in chunks of 32 whose labels are compared at once; a chunk none of whose labels
// fits costs one comparison, and within a chunk only the keys that are seen are read. Rows have one
// owner, so sums have one order and nothing is atomic.

#include "device.cuh"

namespace stoa {

// More rows than warps: part of what a warp reads its block has read before, into the L1 cache.
inline constexpr int kAttentionWarps = 8;
// To a multiprocessor, at least. Asked for more, or for none, ptxas spills registers to fit them
// in.
inline constexpr int kAttentionBlocks = 2;
inline constexpr int kAttentionRows = 32;

// Rows of one clip and head.
template <typename scalar_t>
struct Rows {
  scalar_t* first;
  unsigned row_bytes;  // from one to the next: an address is one instruction

  __host__ __device__ scalar_t* operator[](int row) const {
    const int64_t offset = int64_t{static_cast<unsigned>(row)} * row_bytes;
    return const_cast<scalar_t*>(
        reinterpret_cast<const scalar_t*>(reinterpret_cast<const char*>(first) + offset));
  }
};

// A (B, H, rows, D) tensor whose last dimension is contiguous; strides of elements.
template <typename scalar_t>
struct HeadRows {
  scalar_t* data;
  int64_t batch_stride;
  int64_t head_stride;
  unsigned row_bytes;

  __host__ __device__ Rows<scalar_t> of(int64_t batch, int64_t head) const {
    return {data + batch * batch_stride + head * head_stride, row_bytes};
  }
};

struct AttentionSizes {
  int64_t B;
  int H;
  int Q;
  int S;
  int D;
};

template <typename scalar_t>
struct AttentionArguments {
  using T = typename Accumulator<scalar_t>::type;

  AttentionSizes sizes;
  T scale;                  // of the scores
  const int64_t* labels;    // (B, S)
  const int64_t* q_labels;  // (B, Q)
  HeadRows<const scalar_t> q;
  HeadRows<const scalar_t> k;
  HeadRows<const scalar_t> v;
  HeadRows<scalar_t> out;
  T* logsumexp;  // (B, H, Q)
};

template <typename scalar_t>
struct AttentionBackwardArguments {
  using T = typename Accumulator<scalar_t>::type;

  AttentionSizes sizes;
  T scale;
  const int64_t* labels;
  const int64_t* q_labels;
  HeadRows<const scalar_t> q;
  HeadRows<const scalar_t> k;
  HeadRows<const scalar_t> v;
  HeadRows<const scalar_t> out;
  HeadRows<const scalar_t> grad;
  const T* logsumexp;  // (B, H, Q)
  T* delta;            // (B, H, Q), the product of a query's output with its gradient
  HeadRows<scalar_t> grad_q;
  HeadRows<scalar_t> grad_k;
  HeadRows<scalar_t> grad_v;
};

// Rows of the width kWidth move in packs of 16 bytes, to which they are aligned. Those of any other
// width, up to kMaxWidth, move element by element.
inline constexpr int kAnyWidth = 0;
inline constexpr int kMaxWidth = 128;

// How a warp lies on heads of a width.
template <typename scalar_t, int kWidth>
struct HeadLanes {
  static constexpr int kSize = Pack<scalar_t>::kSize;
  static constexpr int kPacks = (kWidth == kAnyWidth ? kMaxWidth : kWidth) / kSize;
  static constexpr int kLanes = kPacks < kWarpSize ? kPacks : kWarpSize;  // of a head
  static constexpr int kHeads = kWarpSize / kLanes;                       // of a warp
  static constexpr int kCount = kPacks / kLanes * kSize;                  // elements of a lane
};

__host__ __device__ inline unsigned attention_blocks(int rows) {
  return (static_cast<unsigned>(rows) + kAttentionRows - 1) / kAttentionRows;
}

// A warp's turn for each of `rows` rows of every clip and kHeads heads.
template <typename scalar_t, int kWidth>
LaunchShape attention_shape(const AttentionSizes& sizes, int rows) {
  constexpr int kHeads = HeadLanes<scalar_t, kWidth>::kHeads;
  const int64_t heads = (int64_t{sizes.H} + kHeads - 1) / kHeads;
  return {sizes.B * attention_blocks(rows), heads, 1, kAttentionWarps * kWarpSize, 0};
}

__device__ __forceinline__ float exponential(float x) {
  return exp2f(x * 1.4426950408889634f);
}
__device__ __forceinline__ double exponential(double x) {
  return exp(x);
}
__device__ __forceinline__ float logarithm(float x) {
  return logf(x);
}
__device__ __forceinline__ double logarithm(double x) {
  return log(x);
}

template <typename T>
__device__ __forceinline__ T lowest();
template <>
__device__ __forceinline__ float lowest<float>() {
  return -3.4028234663852886e38f;
}
template <>
__device__ __forceinline__ double lowest<double>() {
  return -1.7976931348623157e308;
}

// What a lane holds of a row.
template <typename scalar_t, int kWidth>
struct Part {
  using T = typename Accumulator<scalar_t>::type;
  using Lanes = HeadLanes<scalar_t, kWidth>;

  T of[Lanes::kCount];

  // The product of the rows.
  __device__ __forceinline__ T dot(const Part& other) const {
    T sum = 0;
#pragma unroll
    for (int i = 0; i < Lanes::kCount; ++i) {
      sum += of[i] * other.of[i];
    }
    return lanes_sum<Lanes::kLanes>(sum);
  }

  __device__ __forceinline__ void add_scaled(T a, const Part& x) {
#pragma unroll
    for (int i = 0; i < Lanes::kCount; ++i) {
      of[i] += a * x.of[i];
    }
  }

  __device__ __forceinline__ void scale(T a) {
#pragma unroll
    for (int i = 0; i < Lanes::kCount; ++i) {
      of[i] *= a;
    }
  }
};

// Where a lane works: a clip, a head, the rows [begin, end) that are its warp's, and of a row the
// elements from `first_` on.
template <typename scalar_t, int kWidth>
class Lane {
 public:
  using Lanes = HeadLanes<scalar_t, kWidth>;
  using LanePart = Part<scalar_t, kWidth>;

  __device__ Lane(const AttentionSizes& sizes, int rows) : num_heads_(sizes.H) {
    const int lane = threadIdx.x % kWarpSize, part = lane % Lanes::kLanes;
    const unsigned blocks = attention_blocks(rows);
    const int first_row = static_cast<int>(blockIdx.x % blocks) * kAttentionRows;
    batch = blockIdx.x / blocks;
    begin = first_row + static_cast<int>(threadIdx.x / kWarpSize);
    end = rows - first_row < kAttentionRows ? rows : first_row + kAttentionRows;
    const int head = static_cast<int>(blockIdx.y) * Lanes::kHeads + lane / Lanes::kLanes;
    exists_ = head < sizes.H;
    head_ = exists_ ? head : sizes.H - 1;  // computed once more, and dropped
    first_ = kWidth == kAnyWidth ? part : part * Lanes::kSize;
    left_ = sizes.D - first_;
  }

  int64_t batch;
  int begin;
  int end;

  // Where the head's row 0 is in a (B, H, rows) array.
  __device__ int64_t row_0(int rows) const { return (batch * num_heads_ + head_) * rows; }

  // Whether the lane writes what its head has once a row.
  __device__ bool leads() const { return exists_ && first_ == 0; }

  template <typename element_t>
  __device__ Rows<element_t> rows(const HeadRows<element_t>& tensor) const {
    const Rows<element_t> rows = tensor.of(batch, head_);
    return {rows.first + first_, rows.row_bytes};
  }

  __device__ __forceinline__ LanePart load(const scalar_t* from) const {
    LanePart part;
    if constexpr (kWidth == kAnyWidth) {
#pragma unroll
      for (int i = 0; i < Lanes::kCount; ++i) {
        const int at = i * Lanes::kLanes;
        part.of[i] = at < left_ ? accumulate_as(from[at]) : 0;
      }
    } else {
#pragma unroll
      for (int at = 0; at < Lanes::kCount; at += Lanes::kSize) {
        const auto pack = *reinterpret_cast<const Pack<scalar_t>*>(from + at * Lanes::kLanes);
#pragma unroll
        for (int i = 0; i < Lanes::kSize; ++i) {
          part.of[at + i] = accumulate_as(pack.values[i]);
        }
      }
    }
    return part;
  }

  __device__ __forceinline__ void store(scalar_t* to, const LanePart& part) const {
    if (!exists_) {
      return;
    }
    if constexpr (kWidth == kAnyWidth) {
#pragma unroll
      for (int i = 0; i < Lanes::kCount; ++i) {
        const int at = i * Lanes::kLanes;
        if (at < left_) {
          to[at] = Store<scalar_t>::from(part.of[i]);
        }
      }
    } else {
#pragma unroll
      for (int at = 0; at < Lanes::kCount; at += Lanes::kSize) {
        Pack<scalar_t> pack;
#pragma unroll
        for (int i = 0; i < Lanes::kSize; ++i) {
          pack.values[i] = Store<scalar_t>::from(part.of[at + i]);
        }
        *reinterpret_cast<Pack<scalar_t>*>(to + at * Lanes::kLanes) = pack;
      }
    }
  }

 private:
  int num_heads_;
  int head_;
  bool exists_;
  int first_;
  int left_;
};

// The rows of [begin, begin + 32) that carry `label`, as bits.
__device__ __forceinline__ unsigned same_label(
    const int64_t* labels, int begin, int count, int64_t label) {
  const int mine = begin + static_cast<int>(threadIdx.x % kWarpSize);
  return __ballot_sync(kFullWarp, mine < count && labels[mine] == label);
}

template <typename scalar_t, int kWidth>
__global__ void __launch_bounds__(kAttentionWarps* kWarpSize, kAttentionBlocks)
    trajectory_attention_forward(const AttentionArguments<scalar_t> args) {
  using T = typename Accumulator<scalar_t>::type;
  const AttentionSizes& sizes = args.sizes;
  const Lane<scalar_t, kWidth> lane(sizes, sizes.Q);
  const auto k_rows = lane.rows(args.k), v_rows = lane.rows(args.v);
  const int64_t* labels = args.labels + lane.batch * sizes.S;
  for (int row = lane.begin; row < lane.end; row += kAttentionWarps) {
    const int64_t label = args.q_labels[lane.batch * sizes.Q + row];
    const auto q = lane.load(lane.rows(args.q)[row]);
    Part<scalar_t, kWidth> out = {};
    // Not -inf, whose distance to a score of -inf is not a number.
    T largest = lowest<T>(), sum = 0;
    unsigned seen = 0;
    for (int begin = 0; begin < sizes.S && label >= 0; begin += kWarpSize) {
      unsigned left = same_label(labels, begin, sizes.S, label);
      seen |= left;
      for (; left != 0; left &= left - 1) {
        const int key = begin + __ffs(left) - 1;
        const auto k = lane.load(k_rows[key]), v = lane.load(v_rows[key]);
        const T score = q.dot(k) * args.scale;
        const T new_largest = score > largest ? score : largest;
        const T shrink = exponential(largest - new_largest);
        const T weight = exponential(score - new_largest);
        largest = new_largest;
        sum = sum * shrink + weight;
        out.scale(shrink);
        out.add_scaled(weight, v);
      }
    }
    if (seen != 0) {
      out.scale(T(1) / sum);
    }
    lane.store(lane.rows(args.out)[row], out);
    if (lane.leads()) {
      args.logsumexp[lane.row_0(sizes.Q) + row] =
          seen == 0 ? -infinity<T>() : largest + logarithm(sum);
    }
  }
}

// The gradient of the queries; leaves `delta` for the other kernel.
template <typename scalar_t, int kWidth>
__global__ void __launch_bounds__(kAttentionWarps* kWarpSize, kAttentionBlocks)
    trajectory_attention_backward_q(const AttentionBackwardArguments<scalar_t> args) {
  using T = typename Accumulator<scalar_t>::type;
  const AttentionSizes& sizes = args.sizes;
  const Lane<scalar_t, kWidth> lane(sizes, sizes.Q);
  const auto k_rows = lane.rows(args.k), v_rows = lane.rows(args.v);
  const int64_t* labels = args.labels + lane.batch * sizes.S;
  for (int row = lane.begin; row < lane.end; row += kAttentionWarps) {
    const int64_t label = args.q_labels[lane.batch * sizes.Q + row];
    const int64_t query = lane.row_0(sizes.Q) + row;
    const auto q = lane.load(lane.rows(args.q)[row]);
    const auto grad = lane.load(lane.rows(args.grad)[row]);
    const T logsumexp = args.logsumexp[query];
    const T delta = grad.dot(lane.load(lane.rows(args.out)[row]));
    Part<scalar_t, kWidth> grad_q = {};
    for (int begin = 0; begin < sizes.S && label >= 0; begin += kWarpSize) {
      for (unsigned left = same_label(labels, begin, sizes.S, label); left != 0; left &= left - 1) {
        const int key = begin + __ffs(left) - 1;
        const auto k = lane.load(k_rows[key]), v = lane.load(v_rows[key]);
        const T weight = exponential(q.dot(k) * args.scale - logsumexp);
        grad_q.add_scaled(weight * (grad.dot(v) - delta), k);
      }
    }
    grad_q.scale(args.scale);
    lane.store(lane.rows(args.grad_q)[row], grad_q);
    if (lane.leads()) {
      args.delta[query] = delta;
    }
  }
}

// The gradients of keys and values.
template <typename scalar_t, int kWidth>
__global__ void __launch_bounds__(kAttentionWarps* kWarpSize, kAttentionBlocks)
    trajectory_attention_backward_kv(const AttentionBackwardArguments<scalar_t> args) {
  using T = typename Accumulator<scalar_t>::type;
  const AttentionSizes& sizes = args.sizes;
  const Lane<scalar_t, kWidth> lane(sizes, sizes.S);
  const auto q_rows = lane.rows(args.q), grad_rows = lane.rows(args.grad);
  const int64_t* q_labels = args.q_labels + lane.batch * sizes.Q;
  const T* logsumexp = args.logsumexp + lane.row_0(sizes.Q);
  const T* delta = args.delta + lane.row_0(sizes.Q);
  for (int row = lane.begin; row < lane.end; row += kAttentionWarps) {
    const int64_t label = args.labels[lane.batch * sizes.S + row];
    const auto k = lane.load(lane.rows(args.k)[row]), v = lane.load(lane.rows(args.v)[row]);
    Part<scalar_t, kWidth> grad_k = {}, grad_v = {};
    for (int begin = 0; begin < sizes.Q && label >= 0; begin += kWarpSize) {
      unsigned left = same_label(q_labels, begin, sizes.Q, label);
      for (; left != 0; left &= left - 1) {
        const int query = begin + __ffs(left) - 1;
        const auto q = lane.load(q_rows[query]), grad = lane.load(grad_rows[query]);
        const T weight = exponential(q.dot(k) * args.scale - logsumexp[query]);
        grad_k.add_scaled(weight * (grad.dot(v) - delta[query]), q);
        grad_v.add_scaled(weight, grad);
      }
    }
    grad_k.scale(args.scale);
    lane.store(lane.rows(args.grad_k)[row], grad_k);
    lane.store(lane.rows(args.grad_v)[row], grad_v);
  }
}

}  // namespace stoa
