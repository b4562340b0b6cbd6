// Attention within groups of tokens that share a label, on the CPU, parallel over clips and heads.
//
// Queries and keys are sorted by label once a clip. A group is then a few small products of
// matrices, and the pairs that do not see each other cost nothing.

#include "../kernels.h"
#include "../trajectory_attention_check.h"
#include "small_products.h"
#include "wide.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

namespace stoa {
namespace {

// Rows [query, query + num_queries) see rows [key, key + num_keys).
struct Group {
  int64_t query;
  int64_t num_queries;
  int64_t key;
  int64_t num_keys;
};

// Where the tokens of one clip are in the order of their labels; -1 for those in no group.
struct Groups {
  std::vector<int64_t> query_row;
  std::vector<int64_t> key_row;
  std::vector<Group> groups;
};

std::vector<int64_t> sorted_by_label(const int64_t* labels, int64_t count) {
  std::vector<int64_t> order;
  for (int64_t i = 0; i < count; ++i) {
    if (labels[i] >= 0) {
      order.push_back(i);
    }
  }
  std::stable_sort(
      order.begin(), order.end(), [&](int64_t a, int64_t b) { return labels[a] < labels[b]; });
  return order;
}

Groups find_groups(const int64_t* q_labels, int64_t Q, const int64_t* labels, int64_t S) {
  Groups found{std::vector<int64_t>(Q, -1), std::vector<int64_t>(S, -1), {}};
  const std::vector<int64_t> queries = sorted_by_label(q_labels, Q),
                             keys = sorted_by_label(labels, S);
  auto query = queries.begin(), key = keys.begin();
  int64_t query_rows = 0, key_rows = 0;
  while (query != queries.end() && key != keys.end()) {
    const int64_t label = std::min(q_labels[*query], labels[*key]);
    const auto query_end =
        std::find_if(query, queries.end(), [&](int64_t token) { return q_labels[token] != label; });
    const auto key_end =
        std::find_if(key, keys.end(), [&](int64_t token) { return labels[token] != label; });
    if (query != query_end && key != key_end) {
      found.groups.push_back({query_rows, query_end - query, key_rows, key_end - key});
      for (; query != query_end; ++query) {
        found.query_row[*query] = query_rows++;
      }
      for (; key != key_end; ++key) {
        found.key_row[*key] = key_rows++;
      }
    }
    query = query_end;
    key = key_end;
  }
  return found;
}

// The rows of one clip and head in the order of their labels, `length` apart: D values, then zeros.
template <typename T>
struct Rows {
  Rows(int64_t Q, int64_t S, int64_t D, int64_t most_keys)
      : length((D + kWideLanes<T> - 1) / kWideLanes<T> * kWideLanes<T>),
        scale(T(1) / std::sqrt(static_cast<T>(D))),
        q(Q * length),
        out(Q * length),
        grad_q(Q * length),
        k(S * length),
        v(S * length),
        grad_k(S * length),
        grad_v(S * length),
        weights(kMostQueries * most_keys),
        grad_scores(kMostQueries * most_keys),
        logsumexp(Q) {}

  // Of a group, weights are kept for so many queries at a time.
  static constexpr int64_t kMostQueries = 32;

  int64_t length;
  T scale;
  WideBuffer<T> q, out, grad_q;  // in the backward `out` has its gradient
  WideBuffer<T> k, v, grad_k, grad_v;
  WideBuffer<T> weights, grad_scores;  // (queries, keys) of a part of a group
  std::vector<T> logsumexp;
};

// Calls back with the parts of a group that have kMostQueries queries.
template <typename T, typename F>
void for_parts(const Group& group, const F& of_part) {
  for (int64_t done = 0; done < group.num_queries; done += Rows<T>::kMostQueries) {
    const int64_t queries = std::min(Rows<T>::kMostQueries, group.num_queries - done);
    of_part({group.query + done, queries, group.key, group.num_keys});
  }
}

// q, k, v -> out, logsumexp
template <typename T>
void attend(Rows<T>& rows, const Group& group) {
  const int64_t queries = group.num_queries, keys = group.num_keys, length = rows.length;
  const T *q = rows.q.data() + group.query * length, *k = rows.k.data() + group.key * length,
          *v = rows.v.data() + group.key * length;
  T* weights = rows.weights.data();
  dot(q, k, queries, keys, length, weights);
  for (int64_t i = 0; i < queries; ++i) {
    T* row = weights + i * keys;
    const T largest = *std::max_element(row, row + keys) * rows.scale;
    T sum = 0;
    for (int64_t j = 0; j < keys; ++j) {
      row[j] = std::exp(row[j] * rows.scale - largest);
      sum += row[j];
    }
    for (int64_t j = 0; j < keys; ++j) {
      row[j] /= sum;
    }
    rows.logsumexp[group.query + i] = largest + std::log(sum);
  }
  T* out = rows.out.data() + group.query * length;
  multiply({weights, keys, 1}, v, queries, keys, length, false, out);
}

// q, k, v, logsumexp, gradient of out -> gradients; of k and v those of the group's earlier queries
// are added to. The product of an output with its gradient is the mean of those of its weights.
template <typename T>
void attend_backward(Rows<T>& rows, const Group& group, bool add) {
  const int64_t queries = group.num_queries, keys = group.num_keys, length = rows.length;
  const int64_t query = group.query * length, key = group.key * length;
  const T *q = rows.q.data() + query, *grad_out = rows.out.data() + query, *k = rows.k.data() + key,
          *v = rows.v.data() + key;
  T *weights = rows.weights.data(), *grad_scores = rows.grad_scores.data();
  dot(q, k, queries, keys, length, weights);
  dot(grad_out, v, queries, keys, length, grad_scores);
  for (int64_t i = 0; i < queries; ++i) {
    T *weight = weights + i * keys, *grad = grad_scores + i * keys;
    T mean = 0;
    for (int64_t j = 0; j < keys; ++j) {
      weight[j] = std::exp(weight[j] * rows.scale - rows.logsumexp[group.query + i]);
      mean += weight[j] * grad[j];
    }
    for (int64_t j = 0; j < keys; ++j) {
      grad[j] = weight[j] * (grad[j] - mean) * rows.scale;
    }
  }
  multiply({grad_scores, keys, 1}, k, queries, keys, length, false, rows.grad_q.data() + query);
  multiply({grad_scores, 1, keys}, q, keys, queries, length, add, rows.grad_k.data() + key);
  multiply({weights, 1, keys}, grad_out, keys, queries, length, add, rows.grad_v.data() + key);
}

std::vector<Groups> groups_of_clips(const at::Tensor& q_labels, const at::Tensor& labels) {
  const at::Tensor query_labels = q_labels.contiguous(), key_labels = labels.contiguous();
  const int64_t Q = q_labels.size(1), S = labels.size(1);
  std::vector<Groups> groups;
  for (int64_t b = 0; b < labels.size(0); ++b) {
    groups.push_back(find_groups(
        query_labels.const_data_ptr<int64_t>() + b * Q,
        Q,
        key_labels.const_data_ptr<int64_t>() + b * S,
        S));
  }
  return groups;
}

int64_t largest_group(const std::vector<Groups>& clips) {
  int64_t largest = 0;
  for (const Groups& clip : clips) {
    for (const Group& group : clip.groups) {
      largest = std::max(largest, group.num_keys);
    }
  }
  return largest;
}

// Tokens are read and written in their own order, where the hardware looks ahead, and are put into
// that of their labels in scratch memory.
template <typename scalar_t, typename T>
void gather_rows(
    const at::TensorAccessor<const scalar_t, 2>& from,
    const std::vector<int64_t>& row_of,
    int64_t length,
    T* rows) {
  const int64_t D = from.size(1), step = from.stride(1);
  for (std::size_t token = 0; token < row_of.size(); ++token) {
    if (row_of[token] < 0) {
      continue;
    }
    const scalar_t* values = from.data() + token * from.stride(0);
    T* row = rows + row_of[token] * length;
    if (step == 1) {
      std::copy_n(values, D, row);
    } else {
      for (int64_t d = 0; d < D; ++d) {
        row[d] = static_cast<T>(values[d * step]);
      }
    }
    std::fill(row + D, row + length, T(0));
  }
}

// Zeros for the tokens in no group. `to` is one of ours: its last dimension is contiguous.
template <typename scalar_t, typename T>
void scatter_rows(
    const T* rows,
    const std::vector<int64_t>& row_of,
    int64_t length,
    at::TensorAccessor<scalar_t, 2> to) {
  const int64_t D = to.size(1);
  for (std::size_t token = 0; token < row_of.size(); ++token) {
    scalar_t* values = to.data() + token * to.stride(0);
    if (row_of[token] < 0) {
      std::fill_n(values, D, scalar_t(0));
    } else {
      std::copy_n(rows + row_of[token] * length, D, values);
    }
  }
}

// Calls back for every clip and head, in parallel, with scratch memory.
template <typename T, typename F>
void for_each_head(
    const at::Tensor& q, const at::Tensor& k, const std::vector<Groups>& clips, const F& of_head) {
  const int64_t B = q.size(0), H = q.size(1), Q = q.size(2), D = q.size(3), S = k.size(2);
  const int64_t most_keys = largest_group(clips);
  at::parallel_for(0, B * H, 1, [&](int64_t begin, int64_t end) {
    Rows<T> rows(Q, S, D, most_keys);
    for (int64_t item = begin; item < end; ++item) {
      of_head(item / H, item % H, clips[item / H], rows);
    }
  });
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> trajectory_attention_cpu(
    const at::Tensor& q,
    const at::Tensor& k,
    const at::Tensor& v,
    const at::Tensor& labels,
    const at::Tensor& q_labels) {
  check_attention_forward(q, k, v, labels, q_labels);
  at::Tensor out = empty_heads_inside(q);
  at::Tensor logsumexp =
      at::empty(q.sizes().slice(0, 3), q.options().dtype(at::toOpMathType(q.scalar_type())));
  const std::vector<Groups> clips = groups_of_clips(q_labels, labels);

  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, q.scalar_type(), "trajectory_attention", [&] {
        using T = at::opmath_type<scalar_t>;
        const auto q_of = q.accessor<const scalar_t, 4>(), k_of = k.accessor<const scalar_t, 4>(),
                   v_of = v.accessor<const scalar_t, 4>();
        auto out_of = out.accessor<scalar_t, 4>();
        auto logsumexp_of = logsumexp.accessor<T, 3>();
        for_each_head<T>(q, k, clips, [&](int64_t b, int64_t h, const Groups& clip, Rows<T>& rows) {
          gather_rows(q_of[b][h], clip.query_row, rows.length, rows.q.data());
          gather_rows(k_of[b][h], clip.key_row, rows.length, rows.k.data());
          gather_rows(v_of[b][h], clip.key_row, rows.length, rows.v.data());
          for (const Group& group : clip.groups) {
            for_parts<T>(group, [&](const Group& part) { attend(rows, part); });
          }
          scatter_rows(rows.out.data(), clip.query_row, rows.length, out_of[b][h]);
          for (int64_t i = 0; i < q.size(2); ++i) {
            logsumexp_of[b][h][i] = clip.query_row[i] < 0 ? -std::numeric_limits<T>::infinity()
                                                          : rows.logsumexp[clip.query_row[i]];
          }
        });
      });
  return {out, logsumexp};
}

namespace {

// Does without `out`, which the kernel for CUDA reads.
}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor> trajectory_attention_backward_cpu(
    const at::Tensor& grad,
    const at::Tensor& q,
    const at::Tensor& k,
    const at::Tensor& v,
    const at::Tensor& labels,
    const at::Tensor& q_labels,
    const at::Tensor& out,
    const at::Tensor& logsumexp) {
  check_attention_forward(q, k, v, labels, q_labels);
  check_attention_backward(grad, q, out, logsumexp);
  at::Tensor grad_q = empty_heads_inside(q), grad_k = empty_heads_inside(k),
             grad_v = empty_heads_inside(v);
  const std::vector<Groups> clips = groups_of_clips(q_labels, labels);

  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, q.scalar_type(), "trajectory_attention_backward", [&] {
        using T = at::opmath_type<scalar_t>;
        const auto q_of = q.accessor<const scalar_t, 4>(), k_of = k.accessor<const scalar_t, 4>(),
                   v_of = v.accessor<const scalar_t, 4>(),
                   grad_of = grad.accessor<const scalar_t, 4>();
        const auto logsumexp_of = logsumexp.accessor<const T, 3>();
        auto grad_q_of = grad_q.accessor<scalar_t, 4>(), grad_k_of = grad_k.accessor<scalar_t, 4>(),
             grad_v_of = grad_v.accessor<scalar_t, 4>();
        for_each_head<T>(q, k, clips, [&](int64_t b, int64_t h, const Groups& clip, Rows<T>& rows) {
          gather_rows(q_of[b][h], clip.query_row, rows.length, rows.q.data());
          gather_rows(grad_of[b][h], clip.query_row, rows.length, rows.out.data());
          gather_rows(k_of[b][h], clip.key_row, rows.length, rows.k.data());
          gather_rows(v_of[b][h], clip.key_row, rows.length, rows.v.data());
          for (int64_t i = 0; i < q.size(2); ++i) {
            if (clip.query_row[i] >= 0) {
              rows.logsumexp[clip.query_row[i]] = logsumexp_of[b][h][i];
            }
          }
          for (const Group& group : clip.groups) {
            for_parts<T>(group, [&](const Group& part) {
              attend_backward(rows, part, part.query > group.query);
            });
          }
          scatter_rows(rows.grad_q.data(), clip.query_row, rows.length, grad_q_of[b][h]);
          scatter_rows(rows.grad_k.data(), clip.key_row, rows.length, grad_k_of[b][h]);
          scatter_rows(rows.grad_v.data(), clip.key_row, rows.length, grad_v_of[b][h]);
        });
      });
  return {grad_q, grad_k, grad_v};
}

}  // namespace stoa
