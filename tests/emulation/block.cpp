#include "tests/emulation/block.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <utility>

#include "tests/emulation/fiber.h"

constinit uint3 threadIdx{}, blockIdx{};
constinit dim3 blockDim{}, gridDim{};

namespace emulation {

Observer* observer = nullptr;

namespace {

constexpr size_t kStackBytes = 256 * 1024, kSharedBytes = 227 * 1024, kStaticBytes = 48 * 1024, kRedZone = 64;
constexpr unsigned kMostThreads = 1024;

enum class State : unsigned char { ready, at_warp, at_block, ended };

struct Thread {
  Context context;
  State state = State::ready;
  Collective kind = Collective::sync;
  uint3 index{};
  unsigned mask = 0;
  int argument = 0, line = 0;
  const char* file = "kernel";
  uint64_t value = 0, result = 0;
  Where where{};
};

struct Warp {
  unsigned arrived = 0;
  uint32_t barriers = 0;
};

// The block that runs; there is one at a time in the process.
struct Block {
  std::vector<Thread> threads = std::vector<Thread>(kMostThreads);
  Warp warps[kMostThreads / 32];
  std::vector<unsigned> order;
  Context scheduler;
  Thread* current = nullptr;
  const std::function<void()>* body = nullptr;
  unsigned count = 0, alive = 0, waiting = 0;
  uint32_t barriers = 0;
  bool broken = false;  // a fault ended it
  alignas(128) unsigned char memory[kSharedBytes + 4096];
  size_t used = 0, static_used = 0;
  void* dynamic = nullptr;
  struct Variable {
    const void* key;
    void* place;
  };
  std::vector<Variable> variables;
};

Block& block() {
  static auto instance = std::make_unique<Block>();
  return *instance;
}

unsigned number_of(const Thread& t) {
  return static_cast<unsigned>(&t - block().threads.data());
}
Thread* warp_begin(const Thread& t) {
  return block().threads.data() + number_of(t) / 32 * 32;
}
unsigned warp_threads(const Thread* begin) {
  return std::min(32u, block().count - number_of(*begin));
}

// Faults that nobody took must not end as success.
struct Faults {
  std::vector<std::string> texts;
  ~Faults() {
    if (texts.empty()) return;
    for (const std::string& text : texts) std::fprintf(stderr, "emulation: %s\n", text.c_str());
    std::_Exit(1);
  }
};
Faults& faults() {
  static Faults instance;
  return instance;
}

[[gnu::noinline]] void suspend(State state) {
  Thread& t = *block().current;
  t.state = state;
  context_switch(t.context, block().scheduler);
}

void fiber_main() {
  for (;;) {
    (*block().body)();
    suspend(State::ended);  // the next block goes on from here
  }
}

// Filled with 0xff: as float and bf16 not a number, as an integer -1.
void* take_shared(size_t bytes, size_t alignment) {
  Block& b = block();
  alignment = std::max<size_t>(alignment, 16);
  const size_t at = (b.used + alignment - 1) / alignment * alignment;
  if (at + bytes + kRedZone > sizeof(b.memory)) {
    fault("a block may have " + std::to_string(kSharedBytes) + " bytes of shared memory", "kernel", 0);
    std::abort();
  }
  std::memset(b.memory + at, 0xff, bytes);
  if (observer != nullptr) observer->shared_begins(b.memory + at, bytes);
  b.used = at + bytes + kRedZone;
  return b.memory + at;
}

std::string describe_threads() {
  Block& b = block();
  std::string text;
  for (unsigned i = 0; i < b.count;) {
    const Thread& t = b.threads[i];
    unsigned last = i;
    while (last + 1 < b.count && b.threads[last + 1].state == t.state && b.threads[last + 1].line == t.line) ++last;
    text += "\n    threads " + std::to_string(i) + " to " + std::to_string(last) + ": ";
    if (t.state == State::ended) {
      text += "ended";
    } else {
      text += t.state == State::at_block ? "__syncthreads" : "a collective of the warp";
      text += std::string(" at ") + t.file + ":" + std::to_string(t.line);
    }
    i = last + 1;
  }
  return text;
}

void break_block(const std::string& what) {
  Block& b = block();
  const Thread* first = &b.threads[0];
  for (unsigned i = b.count; i-- > 0;) {
    if (b.threads[i].state != State::ended) first = &b.threads[i];
  }
  fault(what + " in block " + std::to_string(blockIdx.x) + "," + std::to_string(blockIdx.y) + describe_threads(),
        first->file, first->line);
  b.broken = true;
}

void release_barrier() {
  Block& b = block();
  const Thread* first = nullptr;
  for (unsigned i = 0; i < b.count; ++i) {
    const Thread& t = b.threads[i];
    if (t.state == State::ended) return break_block("a thread has ended while others wait at __syncthreads");
    if (first == nullptr) first = &t;
    if (t.line != first->line || std::strcmp(t.file, first->file) != 0) {
      return break_block("threads wait at different __syncthreads");
    }
  }
  ++b.barriers;
  b.waiting = 0;
  for (unsigned i = 0; i < b.count; ++i) {
    b.threads[i].state = State::ready;
    b.threads[i].where.block_barriers = b.barriers;
  }
}

// The lane that lane i reads from, itself where the shuffle would leave the warp.
int source_lane(const Thread& t, int lane) {
  switch (t.kind) {
    case Collective::shuffle:
      return t.argument & 31;
    case Collective::shuffle_xor:
      return lane ^ t.argument;
    default:
      return lane;
  }
}

// Called by the last lane to arrive: computes every lane's result.
void complete_collective(Thread* begin, unsigned mask, const Thread& last) {
  const unsigned count = warp_threads(begin);
  const uint32_t barriers = ++block().warps[number_of(*begin) / 32].barriers;
  for (unsigned i = 0; i < count; ++i) {
    if ((mask >> i & 1) == 0) continue;
    Thread& t = begin[i];
    const unsigned source = static_cast<unsigned>(source_lane(t, static_cast<int>(i)));
    if (source >= count || (mask >> source & 1) == 0) {
      fault("a shuffle reads lane " + std::to_string(source) + ", which does not take part", t.file, t.line);
      t.result = ~uint64_t{0};
    } else {
      t.result = begin[source].value;
    }
    t.where.warp_barriers = barriers;
    if (&t != &last) t.state = State::ready;
  }
}

void begin_block(size_t shared_bytes, uint32_t operation, uint32_t number) {
  Block& b = block();
  b.alive = b.count;
  b.waiting = 0;
  b.used = 0;
  b.static_used = 0;
  b.broken = false;
  b.barriers = 0;
  b.variables.clear();
  std::fill(std::begin(b.warps), std::end(b.warps), Warp{});
  if (observer != nullptr) observer->block_begins();
  b.dynamic = take_shared(shared_bytes, 128);
  for (unsigned i = 0; i < b.count; ++i) {
    Thread& t = b.threads[i];
    t.state = State::ready;
    t.file = "kernel";
    t.line = 0;
    t.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
    t.where = {operation, number, i, 0, 0};
    if (t.context.stack == nullptr) {
      context_create(t.context, kStackBytes, i);
      context_start(t.context, fiber_main);
    }
  }
}

template <class T>
void shuffle_order(std::vector<T>& order, uint64_t& random) {
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[next_random(random) % i]);
}

void run_thread(Thread& t) {
  Block& b = block();
  b.current = &t;
  threadIdx = t.index;
  context_switch(b.scheduler, t.context);
  b.current = nullptr;
  if (t.state == State::ended) --b.alive;
}

// Every ready thread once, in the schedule's order; in the fixed orders a warp goes on until it ends or waits for
// the block.
bool run_ready_threads() {
  Block& b = block();
  const bool shuffled = settings().threads == Threads::shuffled;
  const unsigned group = shuffled ? b.count : 32;
  bool progress = false;
  for (unsigned begin = 0; begin < b.count; begin += group) {
    for (bool again = true; again;) {
      again = false;
      for (unsigned i = begin; i < std::min(begin + group, b.count); ++i) {
        Thread& t = b.threads[b.order[i]];
        if (t.state != State::ready) continue;
        run_thread(t);
        progress = true;
        again = !shuffled;
      }
    }
  }
  return progress;
}

void run_block(uint64_t& random) {
  Block& b = block();
  b.order.resize(b.count);
  for (unsigned i = 0; i < b.count; ++i) b.order[i] = settings().threads == Threads::reverse ? b.count - 1 - i : i;
  while (b.alive > 0 && !b.broken) {
    if (settings().threads == Threads::shuffled) shuffle_order(b.order, random);
    const bool progress = run_ready_threads();
    if (b.waiting > 0 && b.waiting == b.alive) {
      release_barrier();
    } else if (!progress && b.alive > 0) {
      break_block("threads wait for threads that never come");
    }
  }
  for (unsigned i = 0; b.broken && i < b.count; ++i) {  // abandoned fibers begin anew with the next block
    if (b.threads[i].state != State::ended) context_start(b.threads[i].context, fiber_main);
  }
}

}  // namespace

uint64_t next_random(uint64_t& state) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

void fault(const std::string& what, const char* file, int line) {
  faults().texts.push_back(std::string(file) + ":" + std::to_string(line) + ": " + what);
}
const char* first_fault() {
  return faults().texts.empty() ? nullptr : faults().texts.front().c_str();
}
std::vector<std::string> take_faults() {
  return std::exchange(faults().texts, {});
}

const Where* current_thread() {
  const Thread* t = block().current;
  return t == nullptr ? nullptr : &t->where;
}
Range shared_memory() {
  return {reinterpret_cast<const char*>(block().memory), sizeof(block().memory)};
}

void block_barrier(const char* file, int line) {
  Thread& t = *block().current;
  t.kind = Collective::block_sync;
  t.file = file;
  t.line = line;
  ++block().waiting;
  suspend(State::at_block);
}

uint64_t warp_collective(Collective kind, unsigned mask, uint64_t value, int argument, const char* file, int line) {
  Thread& t = *block().current;
  Thread* begin = warp_begin(t);
  const unsigned count = warp_threads(begin), lane = number_of(t) % 32;
  if ((mask >> lane & 1) == 0) fault("the calling lane is not in the mask of the collective", file, line);
  if (count < 32) mask &= (1u << count) - 1;
  t.kind = kind;
  t.mask = mask;
  t.value = value;
  t.argument = argument;
  t.file = file;
  t.line = line;
  Warp& warp = block().warps[number_of(t) / 32];
  if (const unsigned others = warp.arrived & mask; others != 0) {
    const Thread& other = begin[std::countr_zero(others)];
    if (other.mask != mask || other.kind != kind || other.line != line) {
      fault("lanes of one warp meet in different collectives or masks", file, line);
    }
  }
  warp.arrived |= 1u << lane;
  if ((warp.arrived & mask) == mask) {
    warp.arrived &= ~mask;
    complete_collective(begin, mask, t);
  } else {
    suspend(State::at_warp);
  }
  return t.result;
}

void* dynamic_shared() {
  return block().dynamic;
}

void* static_shared(const void* key, size_t size, size_t alignment) {
  Block& b = block();
  for (const Block::Variable& variable : b.variables) {
    if (variable.key == key) return variable.place;
  }
  b.static_used += size;
  if (b.static_used > kStaticBytes) fault("more than 48 KiB of static shared memory", "kernel", 0);
  b.variables.push_back({key, take_shared(size, alignment)});
  return b.variables.back().place;
}

void atomic_access(const void* address, size_t size) {
  if (observer != nullptr) observer->atomic(address, size, __builtin_return_address(0));
}

void run_grid(dim3 grid, dim3 threads, size_t shared_bytes, uint32_t operation, const std::function<void()>& body) {
  std::vector<size_t> order(size_t{grid.x} * grid.y * grid.z);
  uint64_t random = settings().seed * 0x9e3779b97f4a7c15u + operation + 1;
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  if (settings().threads == Threads::reverse) std::reverse(order.begin(), order.end());
  if (settings().threads == Threads::shuffled) shuffle_order(order, random);
  Block& b = block();
  b.body = &body;
  b.count = threads.x * threads.y * threads.z;
  gridDim = grid;
  blockDim = threads;
  for (size_t number : order) {
    blockIdx = {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
                static_cast<unsigned>(number / grid.x / grid.y)};
    begin_block(shared_bytes, operation, static_cast<uint32_t>(number));
    run_block(random);
    if (b.broken) break;
  }
}

}  // namespace emulation
