// Arrays on the device for tests, and the comparison of an op there with its twin on the CPU.
#pragma once

#include <cstdlib>
#include <random>

#include "engine/core/buffer.h"
#include "engine/core/device.h"
#include "tests/support/compare.h"

#if defined(SWITCHYARD_EMULATED)
#include "tests/emulation/emulation.h"
#endif

namespace test {

using engine::Device;

// The same in each run, so that a failure is the change's, unless TEST_SEED is a number or "random".
inline uint64_t fresh_seed() {
  static const uint64_t seed = [] {
    const std::string given = std::getenv("TEST_SEED") == nullptr ? "1" : std::getenv("TEST_SEED");
    const uint64_t value = given == "random" ? std::random_device{}() : std::strtoull(given.c_str(), nullptr, 10);
    MESSAGE("TEST_SEED=" << value << " repeats this run");
    return value;
  }();
  static uint64_t calls = 0;
  return seed * 1000 + ++calls;
}

inline uint16_t to_bf16(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
inline float from_bf16(uint16_t bits) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(bits) << 16);
}

// Fresh uniform values in [-scale, scale] that the storage represents exactly.
inline std::vector<float> fresh_values(int64_t count, DType storage, float scale = 1.0f) {
  std::vector<float> values = test::values(fresh_seed(), count, scale);
  for (float& v : values) v = storage == DType::bf16 ? from_bf16(to_bf16(v)) : v;
  return values;
}

// A tensor in device memory.
class DeviceTensor {
 public:
  // Outputs: every byte is 0xff, so what is not written is not a number.
  DeviceTensor(std::initializer_list<int64_t> dims, DType dtype = DType::f32)
      : view_(nullptr, dtype, dims, Device::cuda), memory_(view_.num_elements() * dtype_bytes(dtype), Device::cuda) {
    view_.data = memory_.data();
    engine::device_fill(view_.data, 0xff, memory_.bytes());
  }
  DeviceTensor(const std::vector<float>& values, std::initializer_list<int64_t> dims, DType dtype = DType::f32)
      : DeviceTensor(dims, dtype) {
    REQUIRE(view_.num_elements() == static_cast<int64_t>(values.size()));
    std::vector<uint16_t> narrow;
    for (size_t i = 0; dtype == DType::bf16 && i < values.size(); ++i) narrow.push_back(to_bf16(values[i]));
    engine::copy_to_device(view_.data, narrow.empty() ? static_cast<const void*>(values.data()) : narrow.data(),
                           memory_.bytes());
  }
  operator Tensor() const { return view_; }
  operator ConstTensor() const { return view_; }

  std::vector<float> host() const {
    std::vector<float> values(static_cast<size_t>(view_.num_elements()));
    if (view_.dtype == DType::bf16) {
      std::vector<uint16_t> narrow(values.size());
      engine::copy_to_host(narrow.data(), view_.data, memory_.bytes());
      for (size_t i = 0; i < values.size(); ++i) values[i] = from_bf16(narrow[i]);
    } else {
      engine::copy_to_host(values.data(), view_.data, memory_.bytes());
    }
    return values;
  }

 private:
  Tensor view_;
  engine::Buffer memory_;
};

// An array of another type.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values)
      : count_(values.size()), memory_(static_cast<int64_t>(count_ * sizeof(T)), Device::cuda) {
    engine::copy_to_device(data(), values.data(), memory_.bytes());
  }
  T* data() const { return reinterpret_cast<T*>(memory_.data()); }
  ConstTensor tensor(DType dtype, std::initializer_list<int64_t> dims) const {
    return ConstTensor(data(), dtype, dims, Device::cuda);
  }
  std::vector<T> host() const {
    std::vector<T> values(count_);
    engine::copy_to_host(values.data(), data(), memory_.bytes());
    return values;
  }

 private:
  size_t count_;
  engine::Buffer memory_;
};

using Results = std::vector<std::vector<float>>;

// Runs a computation under every order of threads and streams an emulated device knows, and several times on a real
// one: always the same bits.
inline Results same_in_every_order(const std::function<Results()>& compute) {
  Results first;
  for (int run = 0; run < 3; ++run) {
#if defined(SWITCHYARD_EMULATED)
    using namespace emulation;
    constexpr Threads kThreads[] = {Threads::forward, Threads::reverse, Threads::shuffled};
    constexpr Streams kStreams[] = {Streams::immediate, Streams::late, Streams::shuffled};
    set({.threads = kThreads[run], .streams = kStreams[run], .seed = fresh_seed()});
#endif
    Results results = compute();
    if (run == 0) first = results;
    for (size_t i = 0; i < first.size(); ++i) check_same_bits(results[i], first[i], "result " + std::to_string(i));
  }
  return first;
}

// fp32 storage differs from the CPU by roundings of sums and of exp, bf16 storage also by the rounding of results.
// `least` as in check_close.
inline void check_parity(const std::string& what, DType storage, const Results& cpu,
                         const std::function<Results()>& device, double least = 1e-30) {
  INFO(what, " stored as ", engine::dtype_name(storage));
  const Results results = same_in_every_order(device);
  REQUIRE(results.size() == cpu.size());
  for (size_t i = 0; i < cpu.size(); ++i) {
    check_close(results[i], cpu[i], storage == DType::bf16 ? 1e-2 : 1e-5, what + ", result " + std::to_string(i),
                least);
  }
}

inline void for_each_storage(const std::function<void(DType)>& run) {
  for (DType storage : {DType::f32, DType::bf16}) run(storage);
}

// A gradient in device memory; with `bound` summed over granules on the grid for values below it.
class DeviceGradient {
 public:
  explicit DeviceGradient(std::initializer_list<int64_t> dims, double bound = 0)
      : chain_(dims),
        sums_(std::vector<double>(static_cast<size_t>(Tensor(chain_).num_elements()), 0.0)),
        max_bits_({0u}) {
    engine::device_fill(Tensor(chain_).data, 0, Tensor(chain_).num_elements() * 4);
    gradient_ = {.chain = chain_, .sum = nullptr, .grid = 0, .max_bits = max_bits_.data()};
    if (bound == 0) return;
    gradient_.sum = sums_.data();
    gradient_.grid = 1.5 * std::ldexp(1.0, 52) * bound * std::ldexp(1.0, -40);
  }
  engine::WeightGradient gradient() const { return gradient_; }
  std::vector<float> chain() const { return chain_.host(); }
  std::vector<float> sum() const {
    const std::vector<double> sums = sums_.host();
    return {sums.begin(), sums.end()};
  }
  uint32_t max_bits() const { return max_bits_.host()[0]; }

 private:
  DeviceTensor chain_;
  DeviceArray<double> sums_;
  DeviceArray<uint32_t> max_bits_;
  engine::WeightGradient gradient_;
};

}  // namespace test
