// Runs roi_align_max, then its backward if there is `grad`, for each pair of files; or prints an
// offset: roi_align_max offset FRAME INNER INNER_SIZE CHANNELS.

#include "roi_align_max_backward.cuh"

#include "arrays.h"

#include <cstdio>

namespace {

template <typename scalar_t>
void run_case(const simt::Arrays& in, simt::Arrays& out) {
  using T = typename stoa::Accumulator<scalar_t>::type;
  const auto& shape = in.shape("boxes");
  const std::int64_t F = shape[0], K = shape[1];
  const int* grid_of = in.data<int>("grid");
  const stoa::RoiGrid grid = {grid_of[0], grid_of[1], grid_of[2], grid_of[3]};
  // Channels, strides of frame and patch, elements before the first patch.
  const std::int64_t* layout = in.data<std::int64_t>("layout");
  const int num_boxes = static_cast<int>(K), C = static_cast<int>(layout[0]);
  const T* boxes = in.data<T>("boxes");
  scalar_t* values = out.add<scalar_t>("values", {F, K, C});
  std::int16_t* winner = out.add<std::int16_t>("winner", {F, K, C});
  bool staged = false;
  const stoa::LaunchShape forward =
      stoa::roi_align_max_shape<scalar_t>(grid, F, num_boxes, C, &staged);
  *out.add<bool>("staged", {1}) = staged;
  const stoa::RoiAlignMaxArguments<scalar_t> args = {
      in.data<scalar_t>("tokens") + layout[3],
      layout[1],
      static_cast<int>(layout[2]),
      boxes,
      in.data<bool>("valid"),
      values,
      winner,
      F,
      num_boxes,
      C,
      grid};
  if (F * K * C > 0) {
    simt::launch(forward, [&] {
      if (staged) {
        stoa::roi_align_max_forward<scalar_t, stoa::kRoiStageable<scalar_t>>(args);
      } else {
        stoa::roi_align_max_forward<scalar_t, false>(args);
      }
    });
  }
  if (!in.has("grad")) {
    return;
  }
  const stoa::RoiAlignMaxBackwardArguments<scalar_t> backward_args = {
      in.data<scalar_t>("grad"),
      in.has("winner") ? in.data<std::int16_t>("winner") : winner,
      boxes,
      out.add<scalar_t>("grad_tokens", {F, grid.patches(), C}),
      F,
      num_boxes,
      C,
      grid};
  simt::launch(stoa::roi_align_max_backward_shape<scalar_t>(grid, F, C), [&] {
    stoa::roi_align_max_backward<scalar_t>(backward_args, stoa::roi_tile<scalar_t>(grid));
  });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 6 && std::string(argv[1]) == "offset") {
    const auto number = [&](int i) { return std::atoll(argv[i]); };
    std::printf("%lld\n", 0LL + stoa::roi_offset(number(2), number(3), number(4), number(5)));
    return 0;
  }
  return simt::run_cases(argc, argv, [](const simt::Arrays& in, simt::Arrays& out) {
    simt::for_type(in.type("tokens"), [&](auto of) { run_case<decltype(of)>(in, out); });
  });
}
