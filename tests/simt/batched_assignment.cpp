// Runs batched_assignment for each pair of files.

#include "batched_assignment.cuh"

#include "arrays.h"

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
  simt::launch(stoa::assignment_shape(B, args.R, args.C), [&] {
    stoa::batched_assignment_kernel<scalar_t>(args);
  });
}

}  // namespace

int main(int argc, char** argv) {
  return simt::run_cases(argc, argv, [](const simt::Arrays& in, simt::Arrays& out) {
    simt::for_type(in.type("cost"), [&](auto of) { run_case<decltype(of)>(in, out); });
  });
}
