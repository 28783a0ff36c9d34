#include <cub/device/device_radix_sort.cuh>

#include "engine/core/cuda_check.h"
#include "engine/core/device_algorithms.h"

namespace engine {
namespace {

int bits_of(int64_t num_keys) {
  int bits = 1;
  while ((int64_t{1} << bits) < num_keys) ++bits;
  return bits;
}

size_t sort(void* scratch, size_t bytes, const SortPairs& a) {
  CUDA_CHECK(cub::DeviceRadixSort::SortPairs(scratch, bytes, a.keys, a.sorted_keys, a.values, a.sorted_values, a.count,
                                             0, bits_of(a.num_keys), a.stream));
  return bytes;
}

}  // namespace

int64_t sort_pairs_scratch_bytes(int64_t count, int64_t num_keys) {
  if (count == 0) return 0;
  return static_cast<int64_t>(sort(nullptr, 0, {.count = count, .num_keys = num_keys}));
}

void sort_pairs(const SortPairs& a) {
  if (a.count == 0) return;
  sort(a.scratch, static_cast<size_t>(sort_pairs_scratch_bytes(a.count, a.num_keys)), a);
}

}  // namespace engine
