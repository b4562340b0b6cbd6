#pragma once

// Runs CUDA device code on the host: every thread of a block is a fiber, and fibers change places
// where threads wait for one another, in an order drawn from SIMT_SEED. Blocks run one after the
// other, so a block that spins until another one writes never ends.
//
// Stricter than a GPU, because what it refuses is undefined on some GPU:
// - all threads of a block reach the same __syncthreads(), none may have exited;
// - lanes that a mask names may not have exited; lanes past the end of the block are left out of
// it;
// - a shuffle does not read from a lane outside its mask, not even to drop the value;
// - __syncthreads() and __syncwarp() alone order memory; shuffles and votes do not, which shows in
//   the build for TSan.
// A breach prints one line and exits with kError.

#include <math.h>  // the overloads of sqrt, exp and others outside of std, as in CUDA

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace simt {

inline constexpr int kError = 86;
inline constexpr unsigned kWarpSize = 32;

// Prints the line, with the block and thread if in one, and exits.
[[noreturn, gnu::format(printf, 1, 2)]] void fail(const char* format, ...);

// Memory that nothing has written holds the words of SIMT_PATTERN. The default is NaN as float,
// double, half and bfloat16, and far out of range as an index.
void fill_unset(void* memory, std::size_t bytes);

void run(dim3 grid, dim3 block, std::size_t shared_bytes, void (*body)(void*), void* argument);
void barrier(int line);
void* shared_array(std::size_t index, std::size_t bytes);
unsigned lane();
void sync_warp(unsigned mask);
unsigned ballot(const char* name, unsigned mask, bool predicate);
unsigned reduce_min(const char* name, unsigned mask, unsigned value);
std::uint64_t shuffle(const char* name, unsigned mask, std::uint64_t value, unsigned source);

// simt::launch(shape, [&] { kernel(arguments...); }), with the limits that a GPU has. `shape` is a
// stoa::LaunchShape or has its fields.
template <typename Shape, typename Body>
void launch(const Shape& shape, Body&& body) {
  const auto size = [](const char* name, std::int64_t value, std::int64_t most) {
    if (value < 1 || value > most) {
      fail("a launch with %s %lld, allowed are 1 to %lld", name, 0LL + value, 0LL + most);
    }
    return static_cast<unsigned>(value);
  };
  run(
      dim3(
          size("grid_x", shape.grid_x, 0x7fffffff),
          size("grid_y", shape.grid_y, 65535),
          size("grid_z", shape.grid_z, 65535)),
      size("block", shape.block, 1024),
      shape.shared_bytes,
      [](void* argument) { (*static_cast<std::remove_reference_t<Body>*>(argument))(); },
      &body);
}

template <typename T>
T shuffle_as(const char* name, unsigned mask, T value, unsigned source) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = shuffle(name, mask, bits, source);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace simt

namespace stoa {

// Every array is an allocation of its own, of exactly the size asked for.
struct SharedMemory {
  template <typename T>
  T* array(std::size_t count) {
    static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= 16);
    return static_cast<T*>(simt::shared_array(num_arrays++, count * sizeof(T)));
  }
  std::size_t num_arrays = 0;
};

}  // namespace stoa

// The line tells a barrier from another one, which threads of one block may not mix.
inline void __syncthreads(int line = __builtin_LINE()) {
  simt::barrier(line);
}
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  simt::sync_warp(mask);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return simt::ballot("__ballot_sync", mask, predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate) {
  return simt::ballot("__any_sync", mask, predicate != 0) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return simt::ballot("__all_sync", mask, predicate == 0) == 0;
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value) {
  return simt::reduce_min("__reduce_min_sync", mask, value);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const unsigned segment = simt::lane() & ~(width - 1u);
  return simt::shuffle_as("__shfl_sync", mask, value, segment + (source & (width - 1u)));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
  const unsigned lane = simt::lane(), source = lane ^ lane_mask;
  const bool inside = source < (lane & ~(width - 1u)) + width;
  return simt::shuffle_as("__shfl_xor_sync", mask, value, inside ? source : lane);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = simt::lane();
  const bool inside = (lane & (width - 1u)) + delta < static_cast<unsigned>(width);
  return simt::shuffle_as("__shfl_down_sync", mask, value, inside ? lane + delta : lane);
}

inline int __ffs(int x) {
  return __builtin_ffs(x);
}
inline int __popc(unsigned x) {
  return std::popcount(x);
}
inline int __double2hiint(double x) {
  return static_cast<int>(std::bit_cast<std::uint64_t>(x) >> 32);
}
inline int __double2loint(double x) {
  return static_cast<int>(std::bit_cast<std::uint64_t>(x));
}

struct __half {
  std::uint16_t bits;
};
struct __nv_bfloat16 {
  std::uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 x) {
  return std::bit_cast<float>(std::uint32_t{x.bits} << 16);
}
inline __nv_bfloat16 __float2bfloat16(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  if (x != x) {
    return {0x7fff};
  }
  return {static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

inline float __half2float(__half x) {
  const std::uint32_t magnitude = x.bits & 0x7fffu, sign = (x.bits & 0x8000u) << 16;
  // Rescaling by the difference of the exponents' biases is exact, for subnormal numbers too.
  const std::uint32_t bits =
      magnitude >= 0x7c00
          ? 0x7f800000 | magnitude << 13
          : std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude << 13) * 0x1p112f);
  return std::bit_cast<float>(sign | bits);
}
inline __half __float2half(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x), magnitude = bits & 0x7fffffff;
  const std::uint32_t sign = bits >> 16 & 0x8000;
  std::uint32_t half;
  if (x != x) {
    return {0x7fff};
  } else if (magnitude >= std::bit_cast<std::uint32_t>(65520.0f)) {
    half = 0x7c00;
  } else if (magnitude < std::bit_cast<std::uint32_t>(0x1p-14f)) {
    // The last place of numbers from 0.5 on is that of subnormal halves: the sum rounds to it.
    half = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) -
           std::bit_cast<std::uint32_t>(0.5f);
  } else {
    half = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  }
  return {static_cast<std::uint16_t>(sign | half)};
}
