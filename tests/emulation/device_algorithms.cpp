// What CUB does on a device, by the standard library.
#include "engine/core/device_algorithms.h"

#include <algorithm>
#include <numeric>

#include "engine/core/error.h"
#include "tests/emulation/stream.h"

namespace engine {

int64_t sort_pairs_scratch_bytes(int64_t count, int64_t) {
  return count * 8;
}

void sort_pairs(const SortPairs& a) {
  ENSURE(a.count == 0 || a.scratch != nullptr, "sorting needs workspace");
  if (a.count == 0) return;
  emulation::enqueue(a.stream, "sort", [a] {
    const auto count = static_cast<size_t>(a.count);
    emulation::device_read(a.keys, count * 4);
    emulation::device_read(a.values, count * 4);
    emulation::device_written(a.scratch, count * 8);
    std::vector<size_t> order(count);
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t i, size_t j) { return a.keys[i] < a.keys[j]; });
    for (size_t i = 0; i < count; ++i) {
      if (a.keys[i] < 0 || a.keys[i] >= a.num_keys) {
        emulation::fault("a key of " + std::to_string(a.keys[i]) + " of " + std::to_string(a.num_keys), "sort", 0);
      }
      a.sorted_keys[i] = a.keys[order[i]];
      a.sorted_values[i] = a.values[order[i]];
    }
    emulation::device_written(a.sorted_keys, count * 4);
    emulation::device_written(a.sorted_values, count * 4);
    return true;
  });
}

}  // namespace engine
