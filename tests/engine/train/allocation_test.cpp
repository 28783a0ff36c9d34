// After the first step a training step takes no memory from the heap: malloc itself is counted.
#include <atomic>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>

#include "engine/train/load_recorder.h"
#include "tests/support/compare.h"
#include "tests/support/tiny_run.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

namespace {
std::atomic<bool> counting{false};
std::atomic<int64_t> allocations{0};
}  // namespace

#if !SANITIZED
// glibc's own, behind the names that programs call
extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

static void count_one() {
  if (!counting.load(std::memory_order_relaxed)) return;
  if (allocations.fetch_add(1) == 0 && std::getenv("ABORT_AT_ALLOCATION") != nullptr) std::abort();
}
void* malloc(size_t bytes) {
  count_one();
  return __libc_malloc(bytes);
}
void* calloc(size_t count, size_t bytes) {
  count_one();
  return __libc_calloc(count, bytes);
}
void* realloc(void* at, size_t bytes) {
  count_one();
  return __libc_realloc(at, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  count_one();
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** at, size_t alignment, size_t bytes) {
  count_one();
  *at = __libc_memalign(alignment, bytes);
  return *at == nullptr ? 12 : 0;
}
}
#endif

namespace {

constexpr int kWarmUp = 1, kCounted = 3;

int64_t counted(const std::function<void()>& run) {
  allocations = 0;
  counting = true;
  run();
  counting = false;
  return allocations;
}

// What libcrypto takes for each link of the run digest; the engine itself is to take nothing.
int64_t allocations_of_digest() {
  engine::train::RunDigest digest;
  digest.begin({});
  const double norm = 1;
  const int64_t count = 1;
  digest.add_step(1, 1, norm, {&norm, 1}, {&count, 1});
  return counted([&] { digest.add_step(2, 1, norm, {&norm, 1}, {&count, 1}); });
}

// Of all ranks together. Room for rows received is planned for the worst case, so that it need not grow.
int64_t allocations_of_steps(engine::Config config, int ranks, int ep_size) {
  config.parallel.recv_headroom = ranks;
  allocations = 0;
  comm::run_thread_ranks(ranks, 2, [&](std::unique_ptr<comm::Group> world) {
    comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), ep_size);
    engine::train::Trainer trainer(config, groups);
    trainer.begin_digest();
    engine::train::LoadRecorder recorder(trainer, {"a", "b"},
                                         [](int64_t sample) { return static_cast<size_t>(sample % 2); });
    for (int step = 0; step < kWarmUp + kCounted; ++step) {
      groups.world->barrier();
      if (step == kWarmUp && groups.world->rank() == 0) counting = true;
      groups.world->barrier();
      recorder.begin_step(0);
      recorder.end_step(
          trainer.train_step(0, [&](int64_t sample, int32_t* tokens) { test::tiny_sample(config, sample, tokens); }));
    }
    groups.world->barrier();
    counting = false;
  });
  return allocations;
}

}  // namespace

TEST_CASE("allocation: a training step after the first takes nothing from the heap") {
  if (SANITIZED) {
    MESSAGE("skipped: a sanitizer has its own malloc");
    return;
  }
  REQUIRE(counted([] {
            void* volatile memory = std::malloc(3);
            std::free(memory);
          }) == 1);  // the counter counts
  const int64_t per_rank = kCounted * allocations_of_digest();
  std::map<std::string, engine::Config> variants{{"dropless", test::tiny_config()}};
  engine::Config& other = variants["capacity, shared expert, sequence balance, expert bias"] = test::tiny_config();
  other.model.router.capacity_factor = 1.0;
  other.model.router.aux_loss_scope = "sequence";
  other.model.scoring_func = "sigmoid";
  other.model.router.bias_update_rate = 1e-3;
  other.model.n_shared_experts = 1;
  other.model.shared_expert_gate = true;
  other.model.tie_word_embeddings = true;
  variants["pooled balance loss"] = test::tiny_config();
  variants["pooled balance loss"].model.router.aux_loss_kind = "hf";
  for (const auto& [name, config] : variants) {
    INFO(name);
    CHECK_MESSAGE(allocations_of_steps(config, 1, 1) == per_rank, "on one rank");
    CHECK_MESSAGE(allocations_of_steps(config, 2, 2) == 2 * per_rank, "on two ranks with ep_size 2");
    CHECK_MESSAGE(allocations_of_steps(config, 4, 2) == 4 * per_rank, "on four ranks with ep_size 2");
  }
}
