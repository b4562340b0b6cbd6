// Runs quick_gelu and its backward for each pair of files.

#include "quick_gelu.cuh"

#include "arrays.h"

namespace {

template <typename scalar_t>
void run_case(const simt::Arrays& in, simt::Arrays& out) {
  // elements, and how many of x lie before the first
  const std::int64_t count = in.data<std::int64_t>("layout")[0],
                     before = in.data<std::int64_t>("layout")[1];
  const scalar_t* x = in.data<scalar_t>("x") + before;
  const bool aligned = before == 0;
  const stoa::LaunchShape shape = stoa::quick_gelu_shape<scalar_t>(count);
  const stoa::QuickGeluArguments<scalar_t> forward = {
      nullptr, x, out.add<scalar_t>("out", {count}), count, aligned};
  simt::launch(shape, [&] { stoa::quick_gelu_kernel<scalar_t, false>(forward); });
  const stoa::QuickGeluArguments<scalar_t> backward = {
      in.data<scalar_t>("grad"), x, out.add<scalar_t>("grad_x", {count}), count, aligned};
  simt::launch(shape, [&] { stoa::quick_gelu_kernel<scalar_t, true>(backward); });
}

}  // namespace

int main(int argc, char** argv) {
  return simt::run_cases(argc, argv, [](const simt::Arrays& in, simt::Arrays& out) {
    simt::for_type(in.type("x"), [&](auto of) { run_case<decltype(of)>(in, out); });
  });
}
