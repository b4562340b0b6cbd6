#pragma once

// Vectors of 32 bytes (of longer ones GCC compares element by element) and functions
// compiled for several generations of x86-64, the best of which is chosen when the module loads.

#include <cstddef>
#include <cstdint>
#include <vector>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define STOA_MULTIVERSION \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define STOA_MULTIVERSION
#endif
// A template cannot be multiversioned; inlined into a function that is, it is compiled as that one.
#define STOA_INLINE_INTO_VERSIONS __attribute__((always_inline)) inline

namespace stoa {

inline constexpr std::size_t kWideBytes = 32;
inline constexpr std::size_t kCacheLineBytes = 64;

template <typename T>
inline constexpr int64_t kWideLanes = kWideBytes / sizeof(T);

template <typename T>
struct WideTypes;
template <>
struct WideTypes<float> {
  typedef float values __attribute__((vector_size(kWideBytes), may_alias));
  typedef int32_t integers __attribute__((vector_size(kWideBytes), may_alias));
  using integer = int32_t;
};
template <>
struct WideTypes<double> {
  typedef double values __attribute__((vector_size(kWideBytes), may_alias));
  typedef int64_t integers __attribute__((vector_size(kWideBytes), may_alias));
  using integer = int64_t;
};

template <typename T>
using Wide = typename WideTypes<T>::values;
template <typename T>
using WideIntegers = typename WideTypes<T>::integers;
template <typename T>
using LaneInteger = typename WideTypes<T>::integer;

// Scratch memory that begins a cache line.
template <typename T>
class WideBuffer {
 public:
  explicit WideBuffer(int64_t count)
      : lines_((count * sizeof(T) + kCacheLineBytes - 1) / kCacheLineBytes) {}
  T* data() { return reinterpret_cast<T*>(lines_.data()); }

 private:
  struct alignas(kCacheLineBytes) Line {
    unsigned char bytes[kCacheLineBytes];
  };
  std::vector<Line> lines_;
};

}  // namespace stoa
