// The floor everything stands on: random numbers, hashes, threads, memory plans, elementary functions.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "engine/core/arena.h"
#include "engine/core/buffer.h"
#include "engine/core/hash.h"
#include "engine/core/planning.h"
#include "engine/core/simd.h"
#include "engine/core/thread_pool.h"
#include "engine/core/transfer.h"
#include "tests/support/compare.h"

namespace {

using namespace engine;

}  // namespace

TEST_CASE("rng: Philox gives Random123's known answers") {
  CHECK(philox(0, 0, 0) == Philox4{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  const uint64_t ones = ~uint64_t{0};
  CHECK(philox(ones, ones, ones) == Philox4{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox(0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e) ==
        Philox4{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("rng: normal numbers have the right moments, and an element depends on its number alone") {
  std::vector<float> values(100000), part(777);
  fill_normal(values.data(), 0, 100000, derive_key(1, "a"), 2.0f);
  fill_normal(part.data(), 1003, 777, derive_key(1, "a"), 2.0f);
  for (size_t i = 0; i < part.size(); ++i) REQUIRE(part[i] == values[1003 + i]);
  double sum = 0, squares = 0, fourth = 0;
  for (float v : values) {
    const double x = static_cast<double>(v) / 2;
    sum += x, squares += x * x, fourth += x * x * x * x;
  }
  CHECK(std::abs(sum / 1e5) < 0.01);
  CHECK(squares / 1e5 == doctest::Approx(1.0).epsilon(0.01));
  CHECK(fourth / 1e5 == doctest::Approx(3.0).epsilon(0.03));
  CHECK(derive_key(1, "a") != derive_key(1, "b"));
  CHECK(derive_key(1, "a") != derive_key(2, "a"));
}

TEST_CASE("hash: SHA-256 of the NIST examples; pieces of a message are the message") {
  CHECK(to_hex(sha256("abc", 3)) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(to_hex(sha256("", 0)) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  Sha256 pieces;
  pieces.update("a");
  pieces.update("bc");
  CHECK(pieces.finish() == sha256("abc", 3));
  Xxh3 parts;
  CHECK(parts.value() == xxh3_128("", 0));
  for (const char* part : {"a", "", "bc"}) parts.update(part, static_cast<int64_t>(std::strlen(part)));
  CHECK(parts.value() == xxh3_128("abc", 3));
  CHECK_FALSE(parts.value() == xxh3_128("abd", 3));
}

TEST_CASE("thread_pool: runs each task once, in many short runs, and passes the first exception on") {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    pool.make_current();
    for (int64_t tasks : {0, 1, 2, 17, 300}) {
      for (int repetition = 0; repetition < 50; ++repetition) {
        std::vector<std::atomic<int>> counts(static_cast<size_t>(tasks));
        parallel_for(tasks, [&](int64_t i) { ++counts[static_cast<size_t>(i)]; });
        for (const auto& count : counts) REQUIRE(count == 1);
      }
    }
    CHECK_THROWS_WITH(parallel_for(10, [](int64_t i) { ENSURE(i != 7, "task seven"); }),
                      doctest::Contains("task seven"));
    int64_t total = 0;
    parallel_ranges(10, 4,
                    [&](int64_t begin, int64_t end) { __atomic_fetch_add(&total, end - begin, __ATOMIC_RELAXED); });
    CHECK(total == 10);
  }
}

TEST_CASE("arena: saved tensors keep their place, scratch of frames that follow each other is shared") {
  ArenaPlan plan;
  Slot saved = plan.saved("a", DType::f32, {10, 3}), first, second;
  {
    ArenaPlan::Frame frame(plan);
    first = plan.scratch("b", DType::f32, {100});
    ArenaPlan::Frame inner(plan);
    plan.scratch("c", DType::f32, {1000});
  }
  {
    ArenaPlan::Frame frame(plan);
    second = plan.scratch("d", DType::f32, {50});
  }
  const Arena arena(plan);
  CHECK(arena.view(first).data == arena.view(second).data);
  CHECK(arena.view(saved).data != arena.view(first).data);
  CHECK(arena.view(saved, 4).rows() == 4);
  CHECK_THROWS(arena.view(saved, 11));
  CHECK(arena.bytes() >= 120 + 4400);
}

TEST_CASE("simd: exp, log, sin and cos are within their bounds and right at the ends") {
  double worst_exp = 0, worst_log = 0, worst_sin = 0;
  for (int i = 0; i < 200000; ++i) {
    const float x = -87.0f + static_cast<float>(i) * (175.0f / 200000);
    worst_exp = std::max(worst_exp, std::abs(static_cast<double>(simd::exp(x)) / std::exp(static_cast<double>(x)) - 1));
    const float y = std::ldexp(1.0f + static_cast<float>(i % 977) / 977, i % 200 - 100);
    const double log = std::log(static_cast<double>(y));
    worst_log = std::max(worst_log, std::abs(static_cast<double>(simd::log(y)) - log) / std::max(1.0, std::abs(log)));
    float lanes[16];
    const float angle = static_cast<float>(i) * 0.04f - 4000;
    simd::store(lanes, simd::sincos(simd::broadcast(angle)).sin);
    worst_sin = std::max(worst_sin, std::abs(static_cast<double>(lanes[0]) - std::sin(static_cast<double>(angle))));
  }
  CHECK(worst_exp < 2e-7);
  CHECK(worst_log < 2e-7);
  CHECK(worst_sin < 2e-7);
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(simd::exp(0.0f) == 1);
  CHECK(simd::exp(-infinity) == 0);
  CHECK(simd::exp(89.0f) == infinity);
  CHECK(std::isnan(simd::exp(std::numeric_limits<float>::quiet_NaN())));
  CHECK(simd::log(1.0f) == 0);
  CHECK(simd::log(0.0f) == -infinity);
  CHECK(std::isnan(simd::log(-1.0f)));
}

TEST_CASE("buffer: what buffers come to is counted, planned ones left out") {
  const BufferBytes before = buffer_bytes();
  Buffer first(1000);
  {
    Buffer second(int64_t{1} << 30);  // never touched
    const Buffer::Planning planning;
    const Buffer imagined(int64_t{1} << 32);
    CHECK(buffer_bytes().now == before.now + 1000 + (int64_t{1} << 30));
  }
  CHECK(buffer_bytes().now == before.now + 1000);
  CHECK(buffer_bytes().most == std::max(before.most, before.now + 1000 + (int64_t{1} << 30)));
  first = Buffer();
  CHECK(buffer_bytes().now == before.now);
}

TEST_CASE("transfer: exactly what a tensor holds is set to zero, little or more than caches hold, wherever it begins") {
  const int64_t large = (int64_t{17} << 20) + 3;
  std::vector<float> memory(static_cast<size_t>(large + 100));
  for (int64_t count : {int64_t{0}, int64_t{1}, int64_t{70}, large}) {
    for (int64_t begin : {0, 1, 3, 20}) {
      std::fill(memory.begin(), memory.end(), 7.0f);
      set_zero(Tensor(memory.data() + begin, DType::f32, {count}));
      const auto zeros = memory.begin() + begin;
      CHECK(std::all_of(zeros, zeros + count, [](float x) { return x == 0; }));
      CHECK(std::all_of(memory.begin(), zeros, [](float x) { return x == 7; }));
      CHECK(std::all_of(zeros + count, memory.end(), [](float x) { return x == 7; }));
    }
  }
}
