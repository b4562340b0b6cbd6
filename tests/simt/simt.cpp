#include "simt.h"

// Fibers and their scheduler. Never compiled with -fsanitize: for TSan this file is the hardware,
// in whose memory there are no races. It tells TSan which fiber runs and what orders them.

#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <vector>

#if defined(SIMT_ASAN)
#include <sanitizer/common_interface_defs.h>
#elif defined(SIMT_TSAN)
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_ignore_thread_begin();
extern "C" void __tsan_ignore_thread_end();
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace simt {
namespace {

// The calls of an absent sanitizer do nothing.
#if !defined(SIMT_ASAN)
constexpr auto __sanitizer_start_switch_fiber = [](auto...) {};
constexpr auto __sanitizer_finish_switch_fiber = [](auto...) {};
#endif
#if defined(SIMT_TSAN)
constexpr bool kTsan = true;
#else
constexpr bool kTsan = false;
constexpr unsigned __tsan_switch_to_fiber_no_sync = 0;
constexpr auto __tsan_ignore_thread_begin = [] {};
constexpr auto __tsan_ignore_thread_end = [] {};
constexpr auto __tsan_acquire = [](void*) {};
constexpr auto __tsan_release = [](void*) {};
constexpr auto __tsan_create_fiber = [](unsigned) -> void* { return nullptr; };
constexpr auto __tsan_get_current_fiber = []() -> void* { return nullptr; };
constexpr auto __tsan_switch_to_fiber = [](void*, unsigned) {};
#endif

constexpr std::size_t kStackBytes = 128 * 1024;
// TSan takes a millisecond to make one.
constexpr std::size_t kFibersForTsan = 128;

// One warp-wide operation, from the first lane that arrives to the last one that leaves.
struct WarpOp {
  const char* name;
  unsigned mask;
  unsigned arrived = 0;
  unsigned left = 0;
  std::uint64_t values[kWarpSize] = {};
  std::uint64_t clock = 0;
};

struct Fiber {
  ucontext_t context;
  const void* stack;  // the lowest address
  std::size_t stack_bytes;
  void* asan_stack;
  void* tsan_fiber;
  unsigned number;  // within its block
  bool exited;
  WarpOp* op;  // in which it waits; if in none and not to be run, it waits at a barrier
};

struct SharedArray {
  void* memory;
  std::size_t bytes;
};

// A new allocation for each, as a clock of TSan's ends with the allocation that it is in.
struct Block {
  Fiber** fibers;
  unsigned num_threads;
  std::size_t shared_bytes;  // not yet asked for
  std::vector<Fiber*> runnable = {};
  std::vector<std::vector<WarpOp*>> warps = {};  // operations that miss lanes
  std::vector<SharedArray> arrays = {};
  unsigned num_exited = 0;
  unsigned at_barrier = 0;
  int barrier_line = 0;
  unsigned barrier_number = 0;
  // Two, as a thread may arrive at the next barrier before another one has left the last.
  std::uint64_t barrier_clocks[2] = {};
};

Fiber host;
Fiber* current = &host;
Fiber* previous;
Block* block;
void (*kernel)(void*);
void* kernel_argument;
std::uint64_t launch_clock, end_clock;

// In this file TSan overlooks accesses, and takes allocations for memory that no thread touched.
struct Unseen {
  Unseen() { __tsan_ignore_thread_begin(); }
  ~Unseen() { __tsan_ignore_thread_end(); }
};

std::uint64_t environment(const char* name, std::uint64_t otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::strtoull(value, nullptr, 0);
}

// splitmix64
std::uint64_t random_below(std::uint64_t end) {
  static std::uint64_t state = environment("SIMT_SEED", 0);
  std::uint64_t x = state += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return (x ^ (x >> 31)) % end;
}

dim3 position(std::uint64_t number, const dim3& size) {
  const std::uint64_t row = number / size.x;
  return dim3(number % size.x, row % size.y, row / size.y);
}

void become(Fiber* fiber) {
  previous = current;
  current = fiber;
  threadIdx = position(fiber->number, blockDim);
}

void switch_to(Fiber* next) {
  if (next == current) {
    return;
  }
  become(next);
  __sanitizer_start_switch_fiber(&previous->asan_stack, next->stack, next->stack_bytes);
  __tsan_switch_to_fiber(next->tsan_fiber, __tsan_switch_to_fiber_no_sync);
  swapcontext(&previous->context, &next->context);
  __sanitizer_finish_switch_fiber(current->asan_stack, &previous->stack, &previous->stack_bytes);
}

// Says what one of the waiting threads waits for in vain, a lane of a warp if there is one.
[[noreturn]] void report_deadlock() {
  Fiber** const end = block->fibers + block->num_threads;
  for (Fiber** waiting = block->fibers; waiting < end; ++waiting) {
    const WarpOp* op = (*waiting)->op;
    for (unsigned lane = 0; op != nullptr && lane < kWarpSize; ++lane) {
      Fiber** missing = waiting - (*waiting)->number % kWarpSize + lane;
      if ((op->mask & ~op->arrived) >> lane & 1 && missing < end) {
        become(*waiting);
        const WarpOp* other = (*missing)->op;
        const char* did = (*missing)->exited ? "has exited" : "waits elsewhere, in ";
        const char* where = (*missing)->exited ? "" : other ? other->name : "__syncthreads";
        fail("%s: lane %u of the mask 0x%08x %s%s", op->name, lane, op->mask, did, where);
      }
    }
  }
  const auto exited = [](const Fiber* fiber) { return fiber->exited; };
  const Fiber* absent = *std::find_if(block->fibers, end, exited);
  become(*std::find_if_not(block->fibers, end, exited));
  const dim3 at = position(absent->number, blockDim);
  fail("__syncthreads: thread (%u,%u,%u) has exited", at.x, at.y, at.z);
}

// Leaves the processor to others until this thread is among the runnable and drawn.
void wait() {
  std::vector<Fiber*>& runnable = block->runnable;
  if (!runnable.empty()) {
    std::swap(runnable[random_below(runnable.size())], runnable.back());
    Fiber* next = runnable.back();
    runnable.pop_back();
    switch_to(next);
  } else if (block->num_exited == block->num_threads) {
    switch_to(&host);
  } else {
    report_deadlock();
  }
}

void fiber_main() {
  __sanitizer_finish_switch_fiber(nullptr, &previous->stack, &previous->stack_bytes);
  for (;;) {
    __tsan_acquire(&launch_clock);
    kernel(kernel_argument);
    __tsan_release(&end_clock);
    const Unseen unseen;
    current->exited = true;
    ++block->num_exited;
    wait();
  }
}

Fiber* new_fiber() {
  Fiber* fiber = new Fiber{};
  const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const int access = PROT_READ | PROT_WRITE, kind = MAP_PRIVATE | MAP_ANONYMOUS;
  void* memory = mmap(nullptr, page + kStackBytes, access, kind, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) {
    fail("no memory for the stack of a thread");
  }
  fiber->tsan_fiber = __tsan_create_fiber(0);
  fiber->stack = static_cast<char*>(memory) + page;
  fiber->stack_bytes = kStackBytes;
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = static_cast<char*>(memory) + page;
  fiber->context.uc_stack.ss_size = kStackBytes;
  makecontext(&fiber->context, &fiber_main, 0);
  // At every swapcontext ASan would forget what is poisoned in this range.
  fiber->context.uc_stack.ss_size = 0;
  return fiber;
}

void run_block(Fiber** fibers, unsigned num_threads, std::size_t shared_bytes) {
  block = new Block{fibers, num_threads, shared_bytes};
  block->runnable.assign(fibers, fibers + num_threads);
  block->warps.resize((num_threads + kWarpSize - 1) / kWarpSize);
  for (unsigned number = 0; number < num_threads; ++number) {
    fibers[number]->number = number;
    fibers[number]->exited = false;
  }
  wait();
  for (const SharedArray& array : block->arrays) {
    std::free(array.memory);
  }
  delete block;
}

// Waits for the lanes of the mask. Who gets the operation has to leave() it.
WarpOp* meet(const char* name, unsigned mask, std::uint64_t value, bool orders_memory = false) {
  const unsigned first = current->number - lane();
  if (!(mask >> lane() & 1)) {
    fail("%s: lane %u is outside of its own mask 0x%08x", name, lane(), mask);
  }
  std::vector<WarpOp*>& waiting = block->warps[first / kWarpSize];
  auto found = std::find_if(waiting.begin(), waiting.end(), [&](const WarpOp* op) {
    return op->mask == mask && std::strcmp(op->name, name) == 0;
  });
  if (found == waiting.end()) {
    found = waiting.insert(found, new WarpOp{name, mask});
  }
  WarpOp* op = current->op = *found;
  op->arrived |= 1u << lane();
  op->values[lane()] = value;
  const unsigned lanes = std::min(kWarpSize, block->num_threads - first);
  if (op->arrived == (mask & (0xffffffffu >> (kWarpSize - lanes)))) {
    waiting.erase(found);
    std::copy_if(
        block->fibers + first,
        block->fibers + first + lanes,
        std::back_inserter(block->runnable),
        [&](const Fiber* fiber) { return fiber->op == op; });
  }
  if (orders_memory) {
    __tsan_release(&op->clock);
  }
  wait();
  if (orders_memory) {
    __tsan_acquire(&op->clock);
  }
  current->op = nullptr;
  return op;
}

void leave(WarpOp* op) {
  op->left |= 1u << lane();
  if (op->left == op->arrived) {
    delete op;
  }
}

}  // namespace

void fail(const char* format, ...) {
  const Unseen unseen;
  std::fprintf(stderr, "simt: ");
  if (current != &host) {
    std::fprintf(stderr, "block (%u,%u,%u), ", blockIdx.x, blockIdx.y, blockIdx.z);
    std::fprintf(stderr, "thread (%u,%u,%u), ", threadIdx.x, threadIdx.y, threadIdx.z);
  }
  std::va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "\n");
  // Not exit, at which TSan objects to threads that have not ended and overrides the status.
  syscall(SYS_exit_group, kError);
  std::abort();
}

void fill_unset(void* memory, std::size_t bytes) {
  static const auto pattern = static_cast<std::uint32_t>(environment("SIMT_PATTERN", 0xfff5a5a5));
  for (std::size_t i = 0; i < bytes; i += sizeof(pattern)) {
    std::memcpy(static_cast<char*>(memory) + i, &pattern, std::min(sizeof(pattern), bytes - i));
  }
}

void run(dim3 grid, dim3 size, std::size_t shared_bytes, void (*body)(void*), void* argument) {
  const Unseen unseen;
  const std::size_t num_blocks = std::size_t{grid.x} * grid.y * grid.z;
  const std::size_t num_threads = size.x;
  gridDim = grid;
  blockDim = size;
  kernel = body;
  kernel_argument = argument;
  // For TSan a thread follows the one that had its fiber before. So blocks that run one after the
  // other have different fibers, and other seeds make neighbours of other blocks.
  const std::size_t num_sets =
      kTsan ? std::min(num_blocks, std::max<std::size_t>(2, kFibersForTsan / num_threads)) : 1;
  static std::vector<Fiber*>& fibers = *new std::vector<Fiber*>;
  while (fibers.size() < num_sets * num_threads) {
    fibers.push_back(new_fiber());
  }
  std::vector<std::size_t> order(num_blocks);
  for (std::size_t i = 0; i < num_blocks; ++i) {
    order[i] = i;
    std::swap(order[i], order[random_below(i + 1)]);
  }
  host.tsan_fiber = __tsan_get_current_fiber();
  __tsan_release(&launch_clock);
  for (std::size_t i = 0; i < num_blocks; ++i) {
    blockIdx = position(order[i], gridDim);
    run_block(&fibers[i % num_sets * num_threads], num_threads, shared_bytes);
  }
  __tsan_acquire(&end_clock);
}

void barrier(int line) {
  const Unseen unseen;
  if (block->at_barrier > 0 && block->barrier_line != line) {
    fail("__syncthreads: line %d, others wait in line %d", line, block->barrier_line);
  }
  block->barrier_line = line;
  std::uint64_t* clock = &block->barrier_clocks[block->barrier_number % 2];
  __tsan_release(clock);
  if (++block->at_barrier == block->num_threads) {
    block->at_barrier = 0;
    ++block->barrier_number;
    block->runnable.assign(block->fibers, block->fibers + block->num_threads);
  }
  wait();
  __tsan_acquire(clock);
}

void* shared_array(std::size_t index, std::size_t bytes) {
  const Unseen unseen;
  std::vector<SharedArray>& arrays = block->arrays;
  if (index == arrays.size()) {
    const std::size_t rounded = (bytes + 15) / 16 * 16, left = block->shared_bytes;
    if (rounded > left) {
      fail("SharedMemory: array %zu needs %zu bytes, %zu are left", index, rounded, left);
    }
    block->shared_bytes -= rounded;
    arrays.push_back({std::malloc(bytes), bytes});
    fill_unset(arrays[index].memory, bytes);
  } else if (arrays[index].bytes != bytes) {
    const std::size_t others = arrays[index].bytes;
    fail("SharedMemory: array %zu has %zu bytes, %zu in other threads", index, bytes, others);
  }
  return arrays[index].memory;
}

unsigned lane() {
  return current->number % kWarpSize;
}

void sync_warp(unsigned mask) {
  const Unseen unseen;
  leave(meet("__syncwarp", mask, 0, true));
}

unsigned ballot(const char* name, unsigned mask, bool predicate) {
  const Unseen unseen;
  WarpOp* op = meet(name, mask, std::uint64_t{predicate} << lane());
  std::uint64_t result = 0;
  for (const std::uint64_t bit : op->values) {
    result |= bit;
  }
  leave(op);
  return static_cast<unsigned>(result);
}

unsigned reduce_min(const char* name, unsigned mask, unsigned value) {
  const Unseen unseen;
  WarpOp* op = meet(name, mask, value);
  std::uint64_t least = value;
  for (unsigned other = 0; other < kWarpSize; ++other) {
    if (op->arrived >> other & 1) {
      least = std::min(least, op->values[other]);
    }
  }
  leave(op);
  return static_cast<unsigned>(least);
}

std::uint64_t shuffle(const char* name, unsigned mask, std::uint64_t value, unsigned source) {
  const Unseen unseen;
  WarpOp* op = meet(name, mask, value);
  if (!(op->arrived >> source & 1)) {
    fail("%s: lane %u is not in the mask 0x%08x or in the block", name, source, mask);
  }
  const std::uint64_t result = op->values[source];
  leave(op);
  return result;
}

}  // namespace simt
