// Runs batched_assignment for each pair of files, small problems by both kernels, of which the
// array "small" chooses one; or prints the least of numbers, as GPUs before sm_80 find it:
// batched_assignment least NUMBER...

#include "small_assignment.cuh"

#include "arrays.h"

#include <cstdio>

namespace {

template <typename scalar_t>
void run_case(const simt::Arrays& in, simt::Arrays& out) {
  // B, R, C and the strides of the three
  const std::int64_t* layout = in.data<std::int64_t>("layout");
  const std::int64_t B = layout[0], R = layout[1], C = layout[2];
  const auto counts = [&](const char* name) {
    return in.has(name) ? in.data<std::int64_t>(name) : nullptr;
  };
  const stoa::AssignmentArguments<scalar_t> args = {
      in.data<scalar_t>("cost"),
      layout[3],
      layout[4],
      layout[5],
      counts("num_rows"),
      counts("num_cols"),
      out.add<std::int64_t>("match", {B, R}),
      out.add<bool>("infeasible", {B}),
      static_cast<int>(R),
      static_cast<int>(C)};
  if (in.has("small")) {
    simt::launch(stoa::small_assignment_shape(B, args.R, args.C), [&] {
      stoa::small_assignment_kernel<scalar_t>(args);
    });
  } else {
    simt::launch(stoa::assignment_shape(B, args.R, args.C), [&] {
      stoa::batched_assignment_kernel<scalar_t>(args);
    });
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 + stoa::kWarpSize && std::string(argv[1]) == "least") {
    simt::launch(stoa::LaunchShape{1, 1, 1, stoa::kWarpSize, 0}, [&] {
      const unsigned mine = std::strtoul(argv[2 + threadIdx.x], nullptr, 10);
      std::printf("%u\n", stoa::warp_min_by_shuffles(mine));
    });
    return 0;
  }
  return simt::run_cases(argc, argv, [](const simt::Arrays& in, simt::Arrays& out) {
    simt::for_type(in.type("cost"), [&](auto of) { run_case<decltype(of)>(in, out); });
  });
}
