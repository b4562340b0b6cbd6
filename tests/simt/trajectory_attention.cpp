// Runs trajectory_attention and its two backward kernels for each pair of files; or prints the
// offset of a row of floats: trajectory_attention offset BATCH HEAD ROW and the strides of the
// three.

#include "trajectory_attention.cuh"

#include "arrays.h"

#include <cstdio>

namespace {

template <typename scalar_t, int kWidth>
void run_case(const simt::Arrays& in, simt::Arrays& out) {
  using T = typename stoa::Accumulator<scalar_t>::type;
  // B, H, Q, S, D
  const std::int64_t* sizes_of = in.data<std::int64_t>("sizes");
  const std::int64_t B = sizes_of[0];
  const auto size = [&](int i) { return static_cast<int>(sizes_of[i]); };
  const int H = size(1), Q = size(2), S = size(3), D = size(4);
  const stoa::AttentionSizes sizes = {B, H, Q, S, D};
  const auto input = [&](const std::string& name) {
    const std::int64_t* strides = in.data<std::int64_t>((name + "_strides").c_str());
    return stoa::HeadRows<const scalar_t>{
        in.data<scalar_t>(name.c_str()),
        strides[0],
        strides[1],
        static_cast<unsigned>(strides[2] * sizeof(scalar_t))};
  };
  // Contiguous as (B, rows, H, D), as the operator returns them.
  const auto output = [&](const char* name, std::int64_t rows) {
    return stoa::HeadRows<scalar_t>{
        out.add<scalar_t>(name, {B, rows, H, D}),
        rows * H * D,
        D,
        static_cast<unsigned>(H * D * sizeof(scalar_t))};
  };
  const T scale = T(1) / sqrt(T(D));
  const std::int64_t* labels = in.data<std::int64_t>("labels");
  const std::int64_t* q_labels = in.data<std::int64_t>("q_labels");
  const auto q = input("q"), k = input("k"), v = input("v");
  const auto result = output("out", Q);
  T* logsumexp = out.add<T>("logsumexp", {B, H, Q});
  const stoa::AttentionArguments<scalar_t> args = {
      sizes, scale, labels, q_labels, q, k, v, result, logsumexp};
  simt::launch(stoa::attention_shape<scalar_t, kWidth>(sizes, Q), [&] {
    stoa::trajectory_attention_forward<scalar_t, kWidth>(args);
  });
  const stoa::AttentionBackwardArguments<scalar_t> backward_args = {
      sizes,
      scale,
      labels,
      q_labels,
      q,
      k,
      v,
      {result.data, result.batch_stride, result.head_stride, result.row_bytes},
      input("grad"),
      logsumexp,
      out.add<T>("delta", {B, H, Q}),
      output("grad_q", Q),
      output("grad_k", S),
      output("grad_v", S)};
  simt::launch(stoa::attention_shape<scalar_t, kWidth>(sizes, Q), [&] {
    stoa::trajectory_attention_backward_q<scalar_t, kWidth>(backward_args);
  });
  simt::launch(stoa::attention_shape<scalar_t, kWidth>(sizes, S), [&] {
    stoa::trajectory_attention_backward_kv<scalar_t, kWidth>(backward_args);
  });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 8 && std::string(argv[1]) == "offset") {
    const auto number = [&](int i) { return std::atoll(argv[i]); };
    const stoa::HeadRows<const float> rows = {
        nullptr, number(5), number(6), static_cast<unsigned>(number(7) * sizeof(float))};
    const float* row = rows.of(number(2), number(3))[static_cast<int>(number(4))];
    std::printf("%lld\n", 0LL + (row - rows.data));
    return 0;
  }
  return simt::run_cases(argc, argv, [](const simt::Arrays& in, simt::Arrays& out) {
    const std::int64_t D = in.data<std::int64_t>("sizes")[4];
    const bool packed = in.data<std::int64_t>("packed")[0] != 0;
    simt::for_type(in.type("q"), [&](auto of) {
      using scalar_t = decltype(of);
      if (!packed) {
        run_case<scalar_t, stoa::kAnyWidth>(in, out);
      } else if (D == 32) {
        run_case<scalar_t, 32>(in, out);
      } else if (D == 64) {
        run_case<scalar_t, 64>(in, out);
      } else {
        run_case<scalar_t, 128>(in, out);
      }
    });
  });
}
