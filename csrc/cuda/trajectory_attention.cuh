#pragma once

// Attention within groups of tokens that share a label. A warp owns one row, its lanes share the
// head width. Keys come in chunks of 32 whose labels are compared at once; a chunk none of whose
// labels fits costs one comparison, and within a chunk only the keys that are seen are read. Rows
// have one owner, so sums have one order and nothing is atomic.

#include "device.cuh"

namespace stoa {

inline constexpr int kAttentionWarps = 4;

// Element strides of a (B, H, rows, D) tensor whose last dimension is contiguous.
template <typename scalar_t>
struct HeadRows {
  scalar_t* data;
  int64_t batch_stride;
  int64_t head_stride;
  int64_t row_stride;

  __host__ __device__ int64_t offset(int64_t batch, int64_t head, int64_t row) const {
    return batch * batch_stride + head * head_stride + row * row_stride;
  }
  __device__ scalar_t* row(int64_t batch, int64_t head, int64_t row) const {
    return data + offset(batch, head, row);
  }
};

struct AttentionSizes {
  int64_t B;
  int64_t H;
  int64_t Q;
  int64_t S;
  int D;
};

template <typename scalar_t>
struct AttentionArguments {
  using T = typename Accumulator<scalar_t>::type;

  AttentionSizes sizes;
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

// A warp for each of `rows` rows of every clip and head.
inline LaunchShape attention_shape(const AttentionSizes& sizes, int64_t rows) {
  const int64_t warps = sizes.B * sizes.H * rows;
  return {(warps + kAttentionWarps - 1) / kAttentionWarps, 1, 1, kAttentionWarps * kWarpSize, 0};
}

__device__ __forceinline__ float exponential(float x) {
  return expf(x);
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

// One row of up to 32 * R elements, R in each lane.
template <typename T, int R>
struct Row {
  T of[R];

  template <typename scalar_t>
  static __device__ __forceinline__ Row load(const scalar_t* from, int D) {
    Row row;
    const int lane = threadIdx.x % kWarpSize;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int d = lane + r * kWarpSize;
      row.of[r] = d < D ? accumulate_as(from[d]) : T(0);
    }
    return row;
  }

  template <typename scalar_t>
  __device__ __forceinline__ void store(scalar_t* to, int D) const {
    const int lane = threadIdx.x % kWarpSize;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int d = lane + r * kWarpSize;
      if (d < D) {
        to[d] = Store<scalar_t>::from(of[r]);
      }
    }
  }

  __device__ __forceinline__ T dot(const Row& other) const {
    T sum = 0;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      sum += of[r] * other.of[r];
    }
    return warp_sum(sum);
  }

  __device__ __forceinline__ void add_scaled(T a, const Row& x) {
#pragma unroll
    for (int r = 0; r < R; ++r) {
      of[r] += a * x.of[r];
    }
  }

  __device__ __forceinline__ void scale(T a) {
#pragma unroll
    for (int r = 0; r < R; ++r) {
      of[r] *= a;
    }
  }
};

// Which row a warp owns.
struct WarpRow {
  int64_t batch;
  int64_t head;
  int64_t row;
  bool exists;

  static __device__ WarpRow of(const AttentionSizes& sizes, int64_t rows) {
    const int64_t index =
        static_cast<int64_t>(blockIdx.x) * kAttentionWarps + threadIdx.x / kWarpSize;
    const int64_t slice = index / rows;
    return {slice / sizes.H, slice % sizes.H, index % rows, slice < sizes.B * sizes.H};
  }
};

// The rows of [begin, begin + 32) that carry `label`, as bits.
__device__ __forceinline__ unsigned same_label(
    const int64_t* labels, int64_t begin, int64_t count, int64_t label) {
  const int64_t mine = begin + threadIdx.x % kWarpSize;
  return __ballot_sync(kFullWarp, mine < count && labels[mine] == label);
}

template <typename scalar_t, int R>
__global__ void __launch_bounds__(kAttentionWarps* kWarpSize)
    trajectory_attention_forward(const AttentionArguments<scalar_t> args) {
  using T = typename Accumulator<scalar_t>::type;
  const AttentionSizes& sizes = args.sizes;
  const WarpRow at = WarpRow::of(sizes, sizes.Q);
  if (!at.exists) {
    return;
  }
  const int lane = threadIdx.x % kWarpSize;
  const int64_t label = args.q_labels[at.batch * sizes.Q + at.row];
  const int64_t* labels = args.labels + at.batch * sizes.S;
  const T scale = T(1) / sqrt(T(sizes.D));
  Row<T, R> out = {};
  T largest = -infinity<T>(), sum = 0;
  if (label >= 0) {
    const Row<T, R> q = Row<T, R>::load(args.q.row(at.batch, at.head, at.row), sizes.D);
    for (int64_t begin = 0; begin < sizes.S; begin += kWarpSize) {
      const unsigned seen = same_label(labels, begin, sizes.S, label);
      if (seen == 0) {
        continue;
      }
      T score = -infinity<T>();  // of the key that is this lane's in the chunk
      for (unsigned left = seen; left != 0; left &= left - 1) {
        const int j = __ffs(left) - 1;
        const T dot = q.dot(Row<T, R>::load(args.k.row(at.batch, at.head, begin + j), sizes.D));
        score = lane == j ? dot * scale : score;
      }
      const T chunk_largest = warp_max(score);
      const T new_largest = chunk_largest > largest ? chunk_largest : largest;
      const T shrink = largest == -infinity<T>() ? T(0) : exponential(largest - new_largest);
      const T weight = (seen >> lane) & 1 ? exponential(score - new_largest) : T(0);
      largest = new_largest;
      sum = sum * shrink + warp_sum(weight);
      out.scale(shrink);
      for (unsigned left = seen; left != 0; left &= left - 1) {
        const int j = __ffs(left) - 1;
        const T weight_of_j = __shfl_sync(kFullWarp, weight, j);
        out.add_scaled(
            weight_of_j, Row<T, R>::load(args.v.row(at.batch, at.head, begin + j), sizes.D));
      }
    }
    if (sum != T(0)) {
      out.scale(T(1) / sum);
    }
  }
  out.store(args.out.row(at.batch, at.head, at.row), sizes.D);
  if (lane == 0) {
    args.logsumexp[(at.batch * sizes.H + at.head) * sizes.Q + at.row] =
        sum == T(0) ? -infinity<T>() : largest + logarithm(sum);
  }
}

// The gradient of the queries, a warp a query; leaves `delta` for the other kernel.
template <typename scalar_t, int R>
__global__ void __launch_bounds__(kAttentionWarps* kWarpSize)
    trajectory_attention_backward_q(const AttentionBackwardArguments<scalar_t> args) {
  using T = typename Accumulator<scalar_t>::type;
  const AttentionSizes& sizes = args.sizes;
  const WarpRow at = WarpRow::of(sizes, sizes.Q);
  if (!at.exists) {
    return;
  }
  const int64_t label = args.q_labels[at.batch * sizes.Q + at.row];
  const int64_t* labels = args.labels + at.batch * sizes.S;
  const int64_t query = (at.batch * sizes.H + at.head) * sizes.Q + at.row;
  const T scale = T(1) / sqrt(T(sizes.D));
  const Row<T, R> q = Row<T, R>::load(args.q.row(at.batch, at.head, at.row), sizes.D);
  const Row<T, R> grad = Row<T, R>::load(args.grad.row(at.batch, at.head, at.row), sizes.D);
  const T logsumexp = args.logsumexp[query];
  const T delta = grad.dot(Row<T, R>::load(args.out.row(at.batch, at.head, at.row), sizes.D));
  Row<T, R> grad_q = {};
  for (int64_t begin = 0; begin < sizes.S && label >= 0; begin += kWarpSize) {
    for (unsigned left = same_label(labels, begin, sizes.S, label); left != 0; left &= left - 1) {
      const int64_t key = begin + __ffs(left) - 1;
      const Row<T, R> k = Row<T, R>::load(args.k.row(at.batch, at.head, key), sizes.D);
      const T weight = exponential(q.dot(k) * scale - logsumexp);
      const T grad_weight = grad.dot(Row<T, R>::load(args.v.row(at.batch, at.head, key), sizes.D));
      grad_q.add_scaled(weight * (grad_weight - delta) * scale, k);
    }
  }
  grad_q.store(args.grad_q.row(at.batch, at.head, at.row), sizes.D);
  if (threadIdx.x % kWarpSize == 0) {
    args.delta[query] = delta;
  }
}

// The gradients of keys and values, a warp a key.
template <typename scalar_t, int R>
__global__ void __launch_bounds__(kAttentionWarps* kWarpSize)
    trajectory_attention_backward_kv(const AttentionBackwardArguments<scalar_t> args) {
  using T = typename Accumulator<scalar_t>::type;
  const AttentionSizes& sizes = args.sizes;
  const WarpRow at = WarpRow::of(sizes, sizes.S);
  if (!at.exists) {
    return;
  }
  const int64_t label = args.labels[at.batch * sizes.S + at.row];
  const int64_t* q_labels = args.q_labels + at.batch * sizes.Q;
  const int64_t first_query = (at.batch * sizes.H + at.head) * sizes.Q;
  const T scale = T(1) / sqrt(T(sizes.D));
  const Row<T, R> k = Row<T, R>::load(args.k.row(at.batch, at.head, at.row), sizes.D);
  const Row<T, R> v = Row<T, R>::load(args.v.row(at.batch, at.head, at.row), sizes.D);
  Row<T, R> grad_k = {}, grad_v = {};
  for (int64_t begin = 0; begin < sizes.Q && label >= 0; begin += kWarpSize) {
    for (unsigned left = same_label(q_labels, begin, sizes.Q, label); left != 0; left &= left - 1) {
      const int64_t query = begin + __ffs(left) - 1;
      const Row<T, R> q = Row<T, R>::load(args.q.row(at.batch, at.head, query), sizes.D);
      const Row<T, R> grad = Row<T, R>::load(args.grad.row(at.batch, at.head, query), sizes.D);
      const T weight = exponential(q.dot(k) * scale - args.logsumexp[first_query + query]);
      const T grad_score = weight * (grad.dot(v) - args.delta[first_query + query]) * scale;
      grad_k.add_scaled(grad_score, q);
      grad_v.add_scaled(weight, grad);
    }
  }
  grad_k.store(args.grad_k.row(at.batch, at.head, at.row), sizes.D);
  grad_v.store(args.grad_v.row(at.batch, at.head, at.row), sizes.D);
}

}  // namespace stoa
