// Test data and comparisons.
//
// Values are a pure function of (seed, index), so any rank or thread can compute what it should have received.
// References are in double precision and live in the test that uses them.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "engine/core/dispatch.h"
#include "engine/core/error.h"
#include "engine/core/gradient.h"
#include "engine/core/rng.h"
#include "engine/core/tensor.h"
#include "engine/core/thread_pool.h"

namespace test {

using engine::ConstTensor;
using engine::DType;
using engine::GranuleRows;
using engine::Tensor;
using engine::WeightGradient;

// Uniform in [-1, 1), element i of the array with this seed.
inline float value(uint64_t seed, int64_t i) {
  return 2.0f * engine::uniform_from_bits(engine::philox(seed, static_cast<uint64_t>(i))[0]) - 1.0f;
}
inline std::vector<float> values(uint64_t seed, int64_t count, float scale = 1.0f) {
  std::vector<float> out(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) out[static_cast<size_t>(i)] = scale * value(seed, i);
  return out;
}

// What output buffers hold before a call: a result that was not written is not a number.
inline std::vector<float> poisoned(int64_t count) {
  return std::vector<float>(static_cast<size_t>(count), std::numeric_limits<float>::quiet_NaN());
}

inline Tensor tensor(std::vector<float>& data, std::initializer_list<int64_t> dims) {
  Tensor view(data.data(), DType::f32, dims);
  REQUIRE(view.num_elements() == static_cast<int64_t>(data.size()));
  return view;
}
inline ConstTensor tensor(const std::vector<float>& data, std::initializer_list<int64_t> dims) {
  ConstTensor view(data.data(), DType::f32, dims);
  REQUIRE(view.num_elements() == static_cast<int64_t>(data.size()));
  return view;
}

// Largest |actual - expected| over the largest |expected|, or `least` if that is more; reports the first bad element.
template <class Expected>
void check_close(const std::vector<float>& actual, const std::vector<Expected>& expected, double tolerance,
                 const std::string& what, double least = 1e-30) {
  REQUIRE_MESSAGE(actual.size() == expected.size(), what);
  double scale = least;
  for (Expected e : expected) scale = std::max(scale, std::abs(static_cast<double>(e)));
  for (size_t i = 0; i < actual.size(); ++i) {
    double difference = std::abs(static_cast<double>(actual[i]) - static_cast<double>(expected[i]));
    if (!(difference <= tolerance * scale)) {
      FAIL_CHECK(what << ": element " << i << " is " << actual[i] << " but should be " << expected[i] << " (largest "
                      << scale << ", tolerance " << tolerance << ")");
      return;
    }
  }
  CHECK(true);
}

// The same bits: -0 is not 0, and a NaN equals itself.
inline void check_same_bits(const std::vector<float>& actual, const std::vector<float>& expected,
                            const std::string& what) {
  REQUIRE_MESSAGE(actual.size() == expected.size(), what);
  for (size_t i = 0; i < actual.size(); ++i) {
    if (std::memcmp(&actual[i], &expected[i], sizeof(float)) != 0) {
      FAIL_CHECK(what << ": element " << i << " is " << actual[i] << " but should be " << expected[i] << " bit by bit");
      return;
    }
  }
  CHECK(true);
}

// A gradient of one granule: the chain is the result.
struct ChainGradient {
  explicit ChainGradient(std::initializer_list<int64_t> dims) : view_(nullptr, DType::f32, dims) {
    data.assign(static_cast<size_t>(view_.num_elements()), 0.0f);
    view_.data = data.data();
  }
  WeightGradient gradient() { return {.chain = view_, .sum = nullptr, .grid = 0, .max_bits = &max_bits}; }
  std::vector<float> data;
  uint32_t max_bits = 0;

 private:
  Tensor view_;
};

// A gradient summed over granules on the grid for values below `bound`.
struct ExactGradient {
  ExactGradient(std::initializer_list<int64_t> dims, double bound) : chain(dims) {
    sum.assign(chain.data.size(), 0.0);
    grid = 1.5 * std::ldexp(1.0, 52) * bound * std::ldexp(1.0, -40);
  }
  WeightGradient gradient() {
    WeightGradient g = chain.gradient();
    g.sum = sum.data();
    g.grid = grid;
    return g;
  }
  ChainGradient chain;
  std::vector<double> sum;
  double grid;
};

// Granules of a pass from their sizes.
struct Granules {
  explicit Granules(std::vector<int64_t> sizes, bool ends = true) : offsets{0} {
    for (int64_t size : sizes) offsets.push_back(offsets.back() + size);
    rows = {.offsets = offsets.data(), .count = static_cast<int64_t>(sizes.size()), .ends = ends};
  }
  std::vector<int64_t> offsets;
  GranuleRows rows;
};

// d(loss)/d(x[i]) by central differences; `loss` is a double-precision reference of the forward function.
inline std::vector<double> finite_difference(std::vector<double> x,
                                             const std::function<double(const std::vector<double>&)>& loss,
                                             double step = 1e-5) {
  std::vector<double> gradient(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    double saved = x[i];
    x[i] = saved + step;
    double up = loss(x);
    x[i] = saved - step;
    double down = loss(x);
    x[i] = saved;
    gradient[i] = (up - down) / (2 * step);
  }
  return gradient;
}
inline std::vector<double> to_double(const std::vector<float>& x) {
  return {x.begin(), x.end()};
}

// Runs a case under every instruction set this machine has.
inline void for_each_cpu_target(const std::function<void()>& run) {
  using engine::CpuTarget;
  CpuTarget before = engine::cpu_target();
  for (CpuTarget target : {CpuTarget::portable, CpuTarget::avx2, CpuTarget::avx512}) {
    if (!engine::cpu_target_available(target)) continue;
    engine::set_cpu_target(target);
    INFO("instruction set ", engine::cpu_target_name(target));
    run();
  }
  engine::set_cpu_target(before);
}

// The result of `compute` has the same bits on one and three threads and on every instruction set.
inline void check_same_everywhere(const std::function<std::vector<float>()>& compute) {
  std::vector<float> expected;
  for (int threads : {1, 3}) {
    engine::ThreadPool pool(threads);
    pool.make_current();
    for_each_cpu_target([&] {
      std::vector<float> result = compute();
      if (expected.empty()) expected = result;
      check_same_bits(result, expected, "the result on " + std::to_string(threads) + " threads");
    });
  }
}

// sum of a * b: a scalar loss whose gradient with respect to a is b.
inline double dot(const std::vector<double>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * static_cast<double>(b[i]);
  return sum;
}

}  // namespace test
