// Algorithms on arrays of the device, from CUB; on a stream, without synchronisation or allocation.
#pragma once

#include <cstdint>

#include "engine/core/device.h"

namespace engine {

// Sorts pairs by key; pairs of one key keep their order. Keys are in [0, num_keys). All pointers are to the device.
struct SortPairs {
  const int32_t *keys = nullptr, *values = nullptr;          // [count]
  int32_t *sorted_keys = nullptr, *sorted_values = nullptr;  // [count], overwritten
  int64_t count = 0, num_keys = 0;
  void* scratch = nullptr;  // of sort_pairs_scratch_bytes(count, num_keys)
  DeviceStream stream = nullptr;
};
int64_t sort_pairs_scratch_bytes(int64_t count, int64_t num_keys);
void sort_pairs(const SortPairs& a);

}  // namespace engine
