// Attention within groups of tokens that share a label, on the CPU, parallel over clips and heads.
//
// Queries and keys are sorted by label once a clip. A group is then a small dense attention, and
// the pairs that do not see each other cost nothing.

#include "../trajectory_attention_check.h"
#include "wide.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>
#include <vector>

namespace stoa {
namespace {

// Queries [query_begin, query_end) see keys [key_begin, key_end), both in the order of their
// labels.
struct Group {
  int64_t query_begin;
  int64_t query_end;
  int64_t key_begin;
  int64_t key_end;
};

struct Groups {
  std::vector<int64_t> queries;
  std::vector<int64_t> keys;
  // Those that are no token.
  std::vector<int64_t> blank_queries;
  std::vector<int64_t> blank_keys;
  std::vector<Group> groups;
};

std::vector<int64_t> sorted_by_label(
    const int64_t* labels, int64_t count, std::vector<int64_t>& blank) {
  std::vector<int64_t> order;
  for (int64_t i = 0; i < count; ++i) {
    (labels[i] >= 0 ? order : blank).push_back(i);
  }
  std::stable_sort(
      order.begin(), order.end(), [&](int64_t a, int64_t b) { return labels[a] < labels[b]; });
  return order;
}

Groups find_groups(const int64_t* q_labels, int64_t Q, const int64_t* labels, int64_t S) {
  Groups found;
  found.queries = sorted_by_label(q_labels, Q, found.blank_queries);
  found.keys = sorted_by_label(labels, S, found.blank_keys);
  const auto& queries = found.queries;
  const auto& keys = found.keys;
  std::size_t query = 0, key = 0;
  while (query < queries.size() && key < keys.size()) {
    const int64_t label = std::max(q_labels[queries[query]], labels[keys[key]]);
    const auto skip =
        [label](const std::vector<int64_t>& order, const int64_t* of, std::size_t at, bool equal) {
          while (at < order.size() && (equal ? of[order[at]] == label : of[order[at]] < label)) {
            ++at;
          }
          return at;
        };
    query = skip(queries, q_labels, query, false);
    key = skip(keys, labels, key, false);
    const std::size_t query_end = skip(queries, q_labels, query, true);
    const std::size_t key_end = skip(keys, labels, key, true);
    if (query_end > query && key_end > key) {
      found.groups.push_back(
          {static_cast<int64_t>(query),
           static_cast<int64_t>(query_end),
           static_cast<int64_t>(key),
           static_cast<int64_t>(key_end)});
    }
    query = query_end;
    key = key_end;
  }
  return found;
}

template <typename T>
int64_t padded(int64_t count) {
  return (count + kWideLanes<T> - 1) / kWideLanes<T> * kWideLanes<T>;
}

// dots[j] = x . rows[j], from the rows transposed to (D, width), width a multiple of the lanes.
template <typename T>
STOA_INLINE_INTO_VERSIONS void dot_with_rows(
    const T* x, const T* rows_t, int64_t D, int64_t width, T* dots) {
  using V = Wide<T>;
  for (int64_t j = 0; j < width; j += kWideLanes<T>) {
    V sum = V{};
    for (int64_t d = 0; d < D; ++d) {
      sum += x[d] * *reinterpret_cast<const V*>(rows_t + d * width + j);
    }
    *reinterpret_cast<V*>(dots + j) = sum;
  }
}

// y += a * x, both of a padded length.
template <typename T>
STOA_INLINE_INTO_VERSIONS void add_scaled(T a, const T* x, int64_t length, T* y) {
  using V = Wide<T>;
  for (int64_t d = 0; d < length; d += kWideLanes<T>) {
    *reinterpret_cast<V*>(y + d) += a * *reinterpret_cast<const V*>(x + d);
  }
}

template <typename T>
STOA_INLINE_INTO_VERSIONS void transpose(
    const T* rows, int64_t count, int64_t D, int64_t row_length, T* rows_t) {
  const int64_t width = padded<T>(count);
  for (int64_t d = 0; d < D; ++d) {
    for (int64_t j = 0; j < width; ++j) {
      rows_t[d * width + j] = j < count ? rows[j * row_length + d] : T(0);
    }
  }
}

// The rows of one clip and head in the order of their labels, (rows, length), length padded.
template <typename T>
struct Rows {
  T* q;
  T* k;
  T* v;
  T* out;
  T* logsumexp;
  int64_t D;
  int64_t length;
};

template <typename T>
STOA_INLINE_INTO_VERSIONS void attend(
    const Rows<T>& rows, const Group& group, T* keys_t, T* scores) {
  const int64_t length = rows.length;
  const int64_t num_keys = group.key_end - group.key_begin;
  const int64_t width = padded<T>(num_keys);
  const T scale = T(1) / std::sqrt(static_cast<T>(rows.D));
  transpose(rows.k + group.key_begin * length, num_keys, rows.D, length, keys_t);
  for (int64_t i = group.query_begin; i < group.query_end; ++i) {
    dot_with_rows(rows.q + i * length, keys_t, rows.D, width, scores);
    T largest = -std::numeric_limits<T>::infinity();
    for (int64_t j = 0; j < num_keys; ++j) {
      scores[j] *= scale;
      largest = std::max(largest, scores[j]);
    }
    T sum = 0;
    T* out = rows.out + i * length;
    std::fill_n(out, length, T(0));
    for (int64_t j = 0; j < num_keys; ++j) {
      const T weight = std::exp(scores[j] - largest);
      sum += weight;
      add_scaled(weight, rows.v + (group.key_begin + j) * length, length, out);
    }
    for (int64_t d = 0; d < length; ++d) {
      out[d] /= sum;
    }
    rows.logsumexp[i] = largest + std::log(sum);
  }
}

// As Rows; `delta` (queries,) is the product of a query's output with its gradient.
template <typename T>
struct RowGradients {
  T* out;
  T* delta;
  T* q;
  T* k;
  T* v;
};

template <typename T>
STOA_INLINE_INTO_VERSIONS void attend_backward(
    const Rows<T>& rows,
    const RowGradients<T>& grad,
    const Group& group,
    T* keys_t,
    T* values_t,
    T* scores,
    T* dots) {
  const int64_t length = rows.length;
  const int64_t num_keys = group.key_end - group.key_begin;
  const int64_t width = padded<T>(num_keys);
  const T scale = T(1) / std::sqrt(static_cast<T>(rows.D));
  transpose(rows.k + group.key_begin * length, num_keys, rows.D, length, keys_t);
  transpose(rows.v + group.key_begin * length, num_keys, rows.D, length, values_t);
  for (int64_t i = group.query_begin; i < group.query_end; ++i) {
    const T* q = rows.q + i * length;
    const T* grad_out = grad.out + i * length;
    dot_with_rows(q, keys_t, rows.D, width, scores);
    dot_with_rows(grad_out, values_t, rows.D, width, dots);
    for (int64_t j = 0; j < num_keys; ++j) {
      const int64_t row = (group.key_begin + j) * length;
      const T weight = std::exp(scores[j] * scale - rows.logsumexp[i]);
      const T grad_score = weight * (dots[j] - grad.delta[i]) * scale;
      add_scaled(grad_score, rows.k + row, length, grad.q + i * length);
      add_scaled(grad_score, q, length, grad.k + row);
      add_scaled(weight, grad_out, length, grad.v + row);
    }
  }
}

STOA_MULTIVERSION void attend_of(
    const Rows<float>& rows, const Group& group, float* keys_t, float* scores) {
  attend(rows, group, keys_t, scores);
}

STOA_MULTIVERSION void attend_of(
    const Rows<double>& rows, const Group& group, double* keys_t, double* scores) {
  attend(rows, group, keys_t, scores);
}

STOA_MULTIVERSION void attend_backward_of(
    const Rows<float>& rows,
    const RowGradients<float>& grad,
    const Group& group,
    float* keys_t,
    float* values_t,
    float* scores,
    float* dots) {
  attend_backward(rows, grad, group, keys_t, values_t, scores, dots);
}

STOA_MULTIVERSION void attend_backward_of(
    const Rows<double>& rows,
    const RowGradients<double>& grad,
    const Group& group,
    double* keys_t,
    double* values_t,
    double* scores,
    double* dots) {
  attend_backward(rows, grad, group, keys_t, values_t, scores, dots);
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
      largest = std::max(largest, group.key_end - group.key_begin);
    }
  }
  return largest;
}

// Rows `order` of one clip and head, to and from (rows, length).
template <typename scalar_t, typename T>
void gather_rows(
    const at::TensorAccessor<const scalar_t, 2>& from,
    const std::vector<int64_t>& order,
    int64_t length,
    T* to) {
  const int64_t D = from.size(1), step = from.stride(1);
  for (const int64_t index : order) {
    const scalar_t* row = from.data() + index * from.stride(0);
    if (step == 1) {
      std::copy_n(row, D, to);
    } else {
      for (int64_t d = 0; d < D; ++d) {
        to[d] = static_cast<T>(row[d * step]);
      }
    }
    std::fill(to + D, to + length, T(0));
    to += length;
  }
}

// `to` is one of ours: its last dimension is contiguous.
template <typename scalar_t, typename T>
void scatter_rows(
    const T* from,
    const std::vector<int64_t>& order,
    const std::vector<int64_t>& blank,
    int64_t length,
    at::TensorAccessor<scalar_t, 2> to) {
  const int64_t D = to.size(1);
  for (const int64_t index : blank) {
    std::fill_n(to.data() + index * to.stride(0), D, scalar_t(0));
  }
  for (const int64_t index : order) {
    std::copy_n(from, D, to.data() + index * to.stride(0));
    from += length;
  }
}

std::tuple<at::Tensor, at::Tensor> trajectory_attention_cpu(
    const at::Tensor& q,
    const at::Tensor& k,
    const at::Tensor& v,
    const at::Tensor& labels,
    const at::Tensor& q_labels) {
  check_attention_forward(q, k, v, labels, q_labels);
  const int64_t B = q.size(0), H = q.size(1), Q = q.size(2), D = q.size(3), S = k.size(2);
  at::Tensor out = empty_heads_inside(q);
  at::Tensor logsumexp = at::empty({B, H, Q}, q.options().dtype(at::toOpMathType(q.scalar_type())));
  const std::vector<Groups> clips = groups_of_clips(q_labels, labels);
  const int64_t most_keys = largest_group(clips);

  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, q.scalar_type(), "trajectory_attention", [&] {
        using T = at::opmath_type<scalar_t>;
        const auto q_of = q.accessor<const scalar_t, 4>(), k_of = k.accessor<const scalar_t, 4>(),
                   v_of = v.accessor<const scalar_t, 4>();
        auto out_of = out.accessor<scalar_t, 4>();
        auto logsumexp_of = logsumexp.accessor<T, 3>();
        at::parallel_for(0, B * H, 1, [&](int64_t begin, int64_t end) {
          const int64_t length = padded<T>(D), row = length / kWideLanes<T>,
                        width = padded<T>(most_keys);
          WideBuffer<T> q_rows(Q * length), k_rows(S * length), v_rows(S * length),
              out_rows(Q * length);
          WideBuffer<T> keys_t(D * width), scores(width);
          std::vector<T> sums(Q);
          const Rows<T> rows{
              q_rows.data(), k_rows.data(), v_rows.data(), out_rows.data(), sums.data(), D, length};
          for (int64_t item = begin; item < end; ++item) {
            const int64_t b = item / H, h = item % H;
            const Groups& clip = clips[b];
            gather_rows(q_of[b][h], clip.queries, length, rows.q);
            gather_rows(k_of[b][h], clip.keys, length, rows.k);
            gather_rows(v_of[b][h], clip.keys, length, rows.v);
            std::fill_n(rows.out, clip.queries.size() * length, T(0));
            std::fill_n(rows.logsumexp, Q, -std::numeric_limits<T>::infinity());
            for (const Group& group : clip.groups) {
              attend_of(rows, group, keys_t.data(), scores.data());
            }
            scatter_rows(rows.out, clip.queries, clip.blank_queries, length, out_of[b][h]);
            for (int64_t i = 0; i < Q; ++i) {
              logsumexp_of[b][h][i] = -std::numeric_limits<T>::infinity();
            }
            for (std::size_t i = 0; i < clip.queries.size(); ++i) {
              logsumexp_of[b][h][clip.queries[i]] = rows.logsumexp[i];
            }
          }
        });
      });
  return {out, logsumexp};
}

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
  const int64_t B = q.size(0), H = q.size(1), Q = q.size(2), D = q.size(3), S = k.size(2);
  check_attention_backward(grad, q, out, logsumexp);
  at::Tensor grad_q = empty_heads_inside(q), grad_k = empty_heads_inside(k),
             grad_v = empty_heads_inside(v);
  const std::vector<Groups> clips = groups_of_clips(q_labels, labels);
  const int64_t most_keys = largest_group(clips);

  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, q.scalar_type(), "trajectory_attention_backward", [&] {
        using T = at::opmath_type<scalar_t>;
        const auto q_of = q.accessor<const scalar_t, 4>(), k_of = k.accessor<const scalar_t, 4>(),
                   v_of = v.accessor<const scalar_t, 4>(),
                   out_of = out.accessor<const scalar_t, 4>(),
                   grad_of = grad.accessor<const scalar_t, 4>();
        const auto logsumexp_of = logsumexp.accessor<const T, 3>();
        auto grad_q_of = grad_q.accessor<scalar_t, 4>(), grad_k_of = grad_k.accessor<scalar_t, 4>(),
             grad_v_of = grad_v.accessor<scalar_t, 4>();
        at::parallel_for(0, B * H, 1, [&](int64_t begin, int64_t end) {
          const int64_t length = padded<T>(D), row = length / kWideLanes<T>,
                        width = padded<T>(most_keys);
          WideBuffer<T> q_rows(Q * length), k_rows(S * length), v_rows(S * length),
              out_rows(Q * length), grad_out_rows(Q * length);
          WideBuffer<T> grad_q_rows(Q * length), grad_k_rows(S * length), grad_v_rows(S * length);
          WideBuffer<T> keys_t(D * width), values_t(D * width);
          WideBuffer<T> scores(width), dots(width);
          std::vector<T> sums(Q), delta(Q);
          const Rows<T> rows{
              q_rows.data(), k_rows.data(), v_rows.data(), out_rows.data(), sums.data(), D, length};
          const RowGradients<T> grads{
              grad_out_rows.data(),
              delta.data(),
              grad_q_rows.data(),
              grad_k_rows.data(),
              grad_v_rows.data()};
          for (int64_t item = begin; item < end; ++item) {
            const int64_t b = item / H, h = item % H;
            const Groups& clip = clips[b];
            gather_rows(q_of[b][h], clip.queries, length, rows.q);
            gather_rows(k_of[b][h], clip.keys, length, rows.k);
            gather_rows(v_of[b][h], clip.keys, length, rows.v);
            gather_rows(out_of[b][h], clip.queries, length, rows.out);
            gather_rows(grad_of[b][h], clip.queries, length, grads.out);
            for (std::size_t i = 0; i < clip.queries.size(); ++i) {
              rows.logsumexp[i] = logsumexp_of[b][h][clip.queries[i]];
              grads.delta[i] = std::inner_product(
                  rows.out + i * length, rows.out + (i + 1) * length, grads.out + i * length, T(0));
            }
            std::fill_n(grads.q, clip.queries.size() * length, T(0));
            std::fill_n(grads.k, clip.keys.size() * length, T(0));
            std::fill_n(grads.v, clip.keys.size() * length, T(0));
            for (const Group& group : clip.groups) {
              attend_backward_of(
                  rows, grads, group, keys_t.data(), values_t.data(), scores.data(), dots.data());
            }
            scatter_rows(grads.q, clip.queries, clip.blank_queries, length, grad_q_of[b][h]);
            scatter_rows(grads.k, clip.keys, clip.blank_keys, length, grad_k_of[b][h]);
            scatter_rows(grads.v, clip.keys, clip.blank_keys, length, grad_v_of[b][h]);
          }
        });
      });
  return {grad_q, grad_k, grad_v};
}

}  // namespace

TORCH_LIBRARY_IMPL(stoa, CPU, m) {
  m.impl("trajectory_attention", &trajectory_attention_cpu);
  m.impl("trajectory_attention_backward", &trajectory_attention_backward_cpu);
}

}  // namespace stoa
