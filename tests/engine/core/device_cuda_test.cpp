// Memory, copies and algorithms of a device.
#include "engine/core/device.h"

#include <algorithm>

#include "engine/core/cuda_check.h"
#include "engine/core/device_algorithms.h"
#include "engine/core/graph.h"
#include "engine/core/readback.h"
#include "tests/support/device.h"

using namespace engine;

TEST_CASE("cuda: memory is zeroed, copies keep the bytes, and the source may change after the call") {
  Buffer memory(1000, Device::cuda);
  std::vector<char> bytes(1000, 'x');
  copy_to_host(bytes.data(), memory.data(), 1000);
  CHECK(bytes == std::vector<char>(1000, '\0'));
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7);
  const std::vector<char> sent = bytes;
  copy_to_device(memory.data(), bytes.data(), 1000);
  std::fill(bytes.begin(), bytes.end(), 'y');
  copy_to_host(bytes.data(), memory.data(), 1000);
  CHECK(bytes == sent);
}

TEST_CASE("cuda: copy_to_host waits, for pinned memory too") {
  const std::vector<float> sent = test::values(1, 5000);
  test::DeviceTensor memory(sent, {5000});
  void* pinned = nullptr;
  CUDA_CHECK(cudaMallocHost(&pinned, 20000));
  copy_to_host(pinned, Tensor(memory).data, 20000);
  CHECK(std::memcmp(pinned, sent.data(), 20000) == 0);
  CUDA_CHECK(cudaFreeHost(pinned));
}

TEST_CASE("cuda: what ops leave for the host comes with one wait, and later in one piece") {
  Readback readback(Device::cuda);
  const auto round = [&](int64_t count) {
    auto* first = readback.place<int32_t>(3);
    auto* second = readback.place<double>(count);
    const std::vector<int32_t> numbers{1, 2, static_cast<int32_t>(count)};
    const std::vector<double> sums(static_cast<size_t>(count), static_cast<double>(count) / 2);
    copy_to_device(first, numbers.data(), 12);
    copy_to_device(second, sums.data(), count * 8);
    const int64_t before = device_waits().count;
    readback.fetch();
    const auto [one, other] = std::pair(readback.host(first), readback.host(second));
    CHECK(std::vector<int32_t>(one, one + 3) == numbers);
    CHECK(std::vector<double>(other, other + count) == sums);
    return device_waits().count - before;
  };
  CHECK(round(1000) == 2);  // nobody knew how much there is
  for (int64_t count : {1000, 10, 999}) CHECK(round(count) == 1);
  round(5000);
  CHECK(round(5000) == 1);
  int32_t elsewhere = 0;
  CHECK_THROWS(readback.host(&elsewhere));
}

TEST_CASE("cuda: a graph queues again what was recorded, with what it copied then") {
  Buffer from(8, Device::cuda), to(8, Device::cuda), constant(8, Device::cuda);
  const auto content = [](const Buffer& buffer) {
    int64_t value = 0;
    copy_to_host(&value, buffer.data(), 8);
    return value;
  };
  const auto set = [](const Buffer& buffer, int64_t value) { copy_to_device(buffer.data(), &value, 8); };
  int64_t number = 7;
  Graph graph;
  CHECK(!graph.recorded());
  set(from, 1);
  graph.record([&] {
    device_copy(to.data(), from.data(), 8);
    copy_to_device(constant.data(), &number, 8);
  });
  number = 8;
  CHECK(graph.recorded());
  CHECK(content(to) == 0);  // nothing has run
  for (int64_t value : {2, 3}) {
    set(from, value), set(constant, 0);
    graph.launch();
    CHECK(content(to) == value);
    CHECK(content(constant) == 7);
  }
  CHECK_THROWS_WITH(graph.record([] { device_synchronize(); }), doctest::Contains("waits while a graph is recorded"));
  CHECK_THROWS_WITH(graph.record([] { Buffer(8, Device::cuda); }), doctest::Contains("memory is taken while"));
  CHECK(!graph.recorded());
  CHECK(content(to) == 3);  // the stream is as it was
}

TEST_CASE("cuda: copies to the device take turns with those before them, however many there are") {
  const int64_t bytes = (int64_t{9} << 20) + 5;  // more than both halves
  std::vector<char> sent(static_cast<size_t>(bytes));
  for (size_t i = 0; i < sent.size(); ++i) sent[i] = static_cast<char>(i * 31 + (i >> 20) * 7);
  test::same_in_every_order([&]() -> test::Results {
    Buffer memory(bytes, Device::cuda);
    copy_to_device(memory.data(), sent.data(), bytes);
    std::vector<char> back(sent.size());
    copy_to_host(back.data(), memory.data(), bytes);
    CHECK(back == sent);
    return {};
  });
}

TEST_CASE("cuda: memory that is not there is an error of the environment") {
  try {
    Buffer memory(int64_t{1} << 45, Device::cuda);
    FAIL("32 TiB of memory");
  } catch (const Error& error) {
    CHECK(error.code() == ExitCode::environment);
    CHECK(std::string(error.what()).find("the device refused") != std::string::npos);
  }
}

TEST_CASE("cuda: the workspace grows and stays") {
  void* small = device_scratch(100);
  CHECK(device_scratch(50) == small);
  void* large = device_scratch(int64_t{1} << 20);
  device_fill(large, 1, int64_t{1} << 20);
  CHECK(device_scratch(100) == large);
  device_synchronize();
}

TEST_CASE("cuda: side streams begin after what was queued, and what is queued after them waits for all of them") {
  const int64_t count = 3000, parts = 2 * DeviceFork::kStreams;
  const std::vector<float> values = test::values(test::fresh_seed(), count);
  const test::Results results = test::same_in_every_order([&]() -> test::Results {
    test::DeviceTensor from({count}), middle({parts, count}), to({parts, count});
    const auto part = [](const test::DeviceTensor& all, int64_t i) { return Tensor(all).slice_rows(i, 1).data; };
    const int64_t bytes = count * 4, waits = device_waits().count;
    const DeviceStream own = device_stream();
    void* own_scratch = device_scratch(bytes);
    copy_to_device(Tensor(from).data, values.data(), bytes);
    {
      DeviceFork fork(bytes);
      for (int64_t i = 0; i < parts; ++i) {
        fork.use(static_cast<int>(i) % DeviceFork::kStreams);
        CHECK(device_stream() != own);
        CHECK(device_scratch(bytes) != own_scratch);
        device_copy(device_scratch(bytes), Tensor(from).data, bytes);  // which the stream's next part overwrites
        device_copy(part(middle, i), device_scratch(bytes), bytes);
      }
      CHECK_THROWS(device_synchronize());
      CHECK_THROWS(DeviceFork(bytes));
      fork.join();
    }
    CHECK(device_stream() == own);
    device_copy(Tensor(to).data, Tensor(middle).data, parts * bytes);
    CHECK(device_waits().count == waits);
    return {to.host()};
  });
  for (int64_t i = 0; i < parts; ++i) {
    const auto begin = results[0].begin() + i * count;
    test::check_same_bits({begin, begin + count}, values, "part " + std::to_string(i));
  }
}

TEST_CASE("cuda: pairs are sorted by key, equal keys in their order") {
  for (int64_t count : {0, 1, 5, 3000}) {
    std::vector<int32_t> keys, values;
    for (int64_t i = 0; i < count; ++i) {
      keys.push_back(static_cast<int32_t>(philox(test::fresh_seed(), 0)[0] % 37));
      values.push_back(static_cast<int32_t>(count - i));
    }
    std::vector<size_t> order(keys.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](size_t i, size_t j) { return keys[i] < keys[j]; });
    std::vector<int32_t> sorted_keys, sorted_values;
    for (size_t i : order) sorted_keys.push_back(keys[i]), sorted_values.push_back(values[i]);
    test::DeviceArray<int32_t> keys_d(keys), values_d(values), sorted_keys_d(keys), sorted_values_d(values);
    sort_pairs({.keys = keys_d.data(),
                .values = values_d.data(),
                .sorted_keys = sorted_keys_d.data(),
                .sorted_values = sorted_values_d.data(),
                .count = count,
                .num_keys = 37,
                .scratch = device_scratch(sort_pairs_scratch_bytes(count, 37)),
                .stream = device_stream()});
    CHECK(sorted_keys_d.host() == sorted_keys);
    CHECK(sorted_values_d.host() == sorted_values);
  }
}
