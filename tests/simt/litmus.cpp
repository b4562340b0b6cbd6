// Kernels with one fault each, which the shim must report, and the same kernels repaired, which it
// must not: litmus NAME, litmus repaired. Prints what the kernel left in global memory.

#include "arrays.h"

#include <cstdio>

namespace {

constexpr unsigned kFull = 0xffffffffu;
constexpr int kThreads = 64;

// As stoa::LaunchShape.
struct Shape {
  std::int64_t grid_x, grid_y, grid_z;
  int block;
  std::size_t shared_bytes;
};

// What a kernel gets: `out` has an element for every thread of the grid.
struct Arguments {
  bool fault;
  int* out;

  int& mine() const { return out[blockIdx.x * blockDim.x + threadIdx.x]; }
};

__device__ int neighbour() {
  return (threadIdx.x + 1) % blockDim.x;
}

__device__ int* array_of_block() {
  stoa::SharedMemory shared;
  return shared.array<int>(blockDim.x);
}

__global__ void missing_barrier(Arguments args) {
  int* values = array_of_block();
  values[threadIdx.x] = threadIdx.x;
  if (!args.fault) {
    __syncthreads();
  }
  args.mine() = values[neighbour()];
}

// A value is read after one barrier and overwritten before the next.
__global__ void missing_second_barrier(Arguments args) {
  int* values = array_of_block();
  values[threadIdx.x] = threadIdx.x;
  __syncthreads();
  const int value = values[neighbour()];
  if (!args.fault) {
    __syncthreads();
  }
  values[threadIdx.x] = -value;
  __syncthreads();
  args.mine() = value;
}

__global__ void missing_global_barrier(Arguments args) {
  args.mine() = threadIdx.x;
  if (!args.fault) {
    __syncthreads();
  }
  const int value = args.out[blockIdx.x * blockDim.x + neighbour()];
  __syncthreads();
  args.mine() = value;
}

// Lanes wait for one another in a vote, which orders no memory.
__global__ void vote_is_no_barrier(Arguments args) {
  int* values = array_of_block();
  values[threadIdx.x] = threadIdx.x;
  if (args.fault) {
    __ballot_sync(kFull, 1);
  } else {
    __syncwarp();
  }
  args.mine() = values[threadIdx.x ^ 1];
}

// The barrier of one warp does not order another.
__global__ void warp_barrier_for_block(Arguments args) {
  int* values = array_of_block();
  values[threadIdx.x] = threadIdx.x;
  __syncwarp();
  args.mine() = values[args.fault ? neighbour() : threadIdx.x ^ 1];
}

__global__ void one_past_the_end(Arguments args) {
  int* values = array_of_block();
  values[threadIdx.x + (args.fault ? 1 : 0)] = 7;
  args.mine() = 7;
}

// On the stack of a thread, which has been left and come back to.
__global__ void past_a_local_array(Arguments args) {
  int values[4] = {1, 2, 3, 4};
  int* volatile begin = values;
  __syncthreads();
  args.mine() = begin[threadIdx.x == 11 && args.fault ? 4 : 3];
}

__global__ void unset_shared(Arguments args) {
  int* values = array_of_block();
  if (!args.fault || threadIdx.x != 9) {
    values[threadIdx.x] = threadIdx.x;
  }
  __syncthreads();
  args.mine() = values[neighbour()];
}

__global__ void different_sizes(Arguments args) {
  stoa::SharedMemory shared;
  shared.array<int>(args.fault && threadIdx.x == 1 ? 8 : 9);
  args.mine() = 0;
}

__global__ void shared_too_small(Arguments args) {
  stoa::SharedMemory shared;
  shared.array<int>(kThreads / 2);
  shared.array<char>(args.fault ? 2 * kThreads + 1 : 2 * kThreads);
  args.mine() = 0;
}

__global__ void divergent_barrier(Arguments args) {
  if (args.fault && threadIdx.x % 2 == 1) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  args.mine() = 0;
}

__global__ void exited_thread(Arguments args) {
  args.mine() = 0;
  if (args.fault && threadIdx.x == 5) {
    return;
  }
  __syncthreads();
}

__global__ void barrier_against_warp(Arguments args) {
  for (int step = 0; step < 2; ++step) {
    if ((step == 0) == (args.fault && threadIdx.x == 3)) {
      __syncthreads();
    } else {
      __syncwarp();
    }
  }
  args.mine() = 0;
}

__global__ void lane_outside_mask(Arguments args) {
  const unsigned mask = args.fault && threadIdx.x == 3 ? kFull & ~8u : kFull;
  args.mine() = __shfl_sync(mask, 1, 0);
}

__global__ void exited_lane(Arguments args) {
  args.mine() = 0;
  if (args.fault && threadIdx.x == 39) {
    return;
  }
  args.mine() = __shfl_xor_sync(kFull, 1, 1);
}

__global__ void different_operations(Arguments args) {
  if (args.fault && threadIdx.x % 32 < 16) {
    args.mine() = __any_sync(kFull, 1);
  } else {
    args.mine() = __all_sync(kFull, 1);
  }
}

__global__ void different_masks(Arguments args) {
  args.mine() = __popc(__ballot_sync(args.fault && threadIdx.x == 0 ? 3u : kFull, 1));
}

__global__ void source_outside_mask(Arguments args) {
  const bool low = threadIdx.x % 32 < 16;
  args.mine() = __shfl_sync(low ? 0xffffu : 0xffff0000u, 1, low && !args.fault ? 4 : 20);
}

// The least of the low and of the high lanes.
__global__ void exited_lane_of_minimum(Arguments args) {
  const unsigned lane = threadIdx.x % 32;
  args.mine() = 0;
  if (args.fault && lane == 20) {
    return;
  }
  args.mine() = __reduce_min_sync(lane < 16 ? 0xffffu : 0xffff0000u, (lane * 5 + 7) % 32);
}

__global__ void race_between_blocks(Arguments args) {
  args.mine() = 0;
  if (threadIdx.x == 0) {
    args.out[args.fault ? 0 : blockIdx.x * blockDim.x] = blockIdx.x;
  }
}

// The halves of a warp go separate ways and meet again.
__global__ void halves_of_a_warp(Arguments args) {
  const int lane = threadIdx.x % 32;
  const unsigned mask = lane < 16 ? 0xffffu : 0xffff0000u;
  double sum = lane;
  for (int distance = 8; distance > 0; distance /= 2) {
    sum += __shfl_down_sync(mask, sum, distance, 16);
  }
  for (int round = 0; lane >= 16 && round < 3; ++round) {
    __syncwarp(mask);
  }
  args.mine() = __shfl_sync(kFull, static_cast<int>(sum), lane < 16 ? 16 : 0);
}

// The sum of a block whose last warp is not full, then the sum over the blocks.
__global__ void sum_of_block(const int* values, int* sums) {
  stoa::SharedMemory shared;
  std::int64_t* of_warp = shared.array<std::int64_t>((blockDim.x + 31) / 32);
  float* unused = shared.array<float>(3);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int lanes = blockDim.x - warp * 32 < 32 ? blockDim.x % 32 : 32;
  const unsigned mask = kFull >> (32 - lanes);
  std::int64_t sum = values[blockIdx.x * blockDim.x + threadIdx.x];
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(mask, sum, distance);
  }
  if (lane == 0) {
    of_warp[warp] = sum;
  }
  if (threadIdx.x < 3) {
    unused[threadIdx.x] = 0;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (unsigned other = 1; other < (blockDim.x + 31) / 32; ++other) {
      sum += of_warp[other];
    }
    sums[blockIdx.x] = static_cast<int>(sum);
  }
}

void ok_reduce() {
  simt::Arrays arrays;
  int* values = arrays.add<int>("values", {8 * 80});
  int* sums = arrays.add<int>("sums", {8});
  int* total = arrays.add<int>("total", {1});
  for (int i = 0; i < 8 * 80; ++i) {
    values[i] = i;
  }
  simt::launch(Shape{8, 1, 1, 80, 48}, [&] { sum_of_block(values, sums); });
  simt::launch(Shape{1, 1, 1, 8, 32}, [&] { sum_of_block(sums, total); });
  std::printf("%d\n", *total);
}

// Every thread converts one number each way.
void convert(const char* from, const char* to) {
  const simt::Arrays in(from);
  simt::Arrays out;
  const unsigned count = static_cast<unsigned>(in.shape("floats")[0]);
  const auto* floats = in.data<float>("floats");
  const auto* halves = in.data<__half>("halves");
  const auto* bfloats = in.data<__nv_bfloat16>("bfloats");
  auto* to_half = out.add<__half>("to_half", {count});
  auto* to_bfloat = out.add<__nv_bfloat16>("to_bfloat", {count});
  auto* of_half = out.add<float>("of_half", {count});
  auto* of_bfloat = out.add<float>("of_bfloat", {count});
  simt::launch(Shape{count / kThreads, 1, 1, kThreads, 0}, [&] {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    to_half[i] = __float2half(floats[i]);
    to_bfloat[i] = __float2bfloat16(floats[i]);
    of_half[i] = __half2float(halves[i]);
    of_bfloat[i] = __bfloat162float(bfloats[i]);
  });
  out.write(to);
}

struct Litmus {
  const char* name;
  void (*kernel)(Arguments);
};

#define LITMUS(name) {#name, &name}
constexpr Litmus kLitmus[] = {
    LITMUS(missing_barrier),      LITMUS(missing_second_barrier), LITMUS(missing_global_barrier),
    LITMUS(vote_is_no_barrier),   LITMUS(warp_barrier_for_block), LITMUS(one_past_the_end),
    LITMUS(past_a_local_array),   LITMUS(unset_shared),           LITMUS(different_sizes),
    LITMUS(shared_too_small),     LITMUS(divergent_barrier),      LITMUS(exited_thread),
    LITMUS(barrier_against_warp), LITMUS(lane_outside_mask),      LITMUS(exited_lane),
    LITMUS(different_operations), LITMUS(different_masks),        LITMUS(source_outside_mask),
    LITMUS(race_between_blocks),  LITMUS(halves_of_a_warp),       LITMUS(exited_lane_of_minimum),
};

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc < 2 ? "" : argv[1];
  if (name == "convert" && argc == 4) {
    convert(argv[2], argv[3]);
    return 0;
  }
  if (name == "ok_reduce") {
    ok_reduce();
    return 0;
  }
  const bool fault = name != "repaired";
  bool known = false;
  for (const Litmus& litmus : kLitmus) {
    if (fault && name != litmus.name) {
      continue;
    }
    known = true;
    simt::Arrays arrays;
    int* out = arrays.add<int>("out", {3 * kThreads});
    simt::launch(
        Shape{3, 1, 1, kThreads, kThreads * sizeof(int)}, [&] { litmus.kernel({fault, out}); });
    std::printf("%s", litmus.name);
    for (int i = 0; i < 3 * kThreads; ++i) {
      std::printf(" %d", out[i]);
    }
    std::printf("\n");
  }
  if (!known) {
    simt::fail("usage: litmus NAME, or repaired, or ok_reduce, or convert FROM TO");
  }
  return 0;
}
