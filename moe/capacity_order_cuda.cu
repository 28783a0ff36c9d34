#include "engine/core/cuda_search.cuh"
#include "engine/core/device_algorithms.h"
#include "moe/capacity_order.h"

// Choices are sorted by (expert's position, granule), and the n-th of those of one key takes its n-th place.
namespace moe::cuda {
namespace {

using engine::blocks_for;
using engine::device_stream;
using engine::first_not_below;
using engine::global_thread;
using engine::launch;

constexpr unsigned kThreads = 256;

struct Shape {
  int64_t K, G, places, num_keys;  // keys: experts * granules
};

// A key for each choice; what goes nowhere has num_keys.
__global__ void keys_kernel(int32_t* keys, int32_t* slots, const int32_t* idx, const int32_t* positions,
                            const int64_t* offsets, Shape shape, int64_t count) {
  const int64_t slot = global_thread();
  if (slot >= count) return;
  const int64_t g = first_not_below(offsets + 1, 0, shape.G, slot / shape.K + 1);
  const bool goes = idx[slot] >= 0 && g < shape.G;
  keys[slot] = static_cast<int32_t>(goes ? positions[idx[slot]] * shape.G + g : shape.num_keys);
  slots[slot] = static_cast<int32_t>(slot);
}

__global__ void places_kernel(int32_t* tokens, int32_t* slots, int32_t* rows, const int32_t* sorted_keys,
                              const int32_t* sorted_slots, Shape shape, int64_t count) {
  const int64_t n = global_thread();
  if (n >= count) return;
  const int64_t key = sorted_keys[n], slot = sorted_slots[n];
  const int64_t place = key == shape.num_keys ? shape.places : n - first_not_below(sorted_keys, 0, count, key);
  const int64_t row = place < shape.places ? key * shape.places + place : -1;
  rows[slot] = static_cast<int32_t>(row);
  if (row < 0) return;
  tokens[row] = static_cast<int32_t>(slot / shape.K);
  slots[row] = static_cast<int32_t>(slot);
}

}  // namespace

void capacity_order(const CapacityOrder& a) {
  const int64_t count = a.topk_idx_TK.num_elements(), G = a.granules.count, num_keys = a.num_experts * G;
  const int64_t rows = num_keys * a.places, offsets_bytes = (G + 1) * 8;
  const int64_t lists = (4 * count * 4 + offsets_bytes + 255) / 256 * 256;
  auto* memory =
      static_cast<char*>(engine::device_scratch(lists + engine::sort_pairs_scratch_bytes(count, num_keys + 1)));
  auto* offsets = reinterpret_cast<int64_t*>(memory);
  auto* keys = reinterpret_cast<int32_t*>(memory + offsets_bytes);
  int32_t *slots = keys + count, *sorted_keys = slots + count, *sorted_slots = sorted_keys + count;
  const Shape shape{.K = a.topk_idx_TK.columns(), .G = G, .places = a.places, .num_keys = num_keys};
  const unsigned blocks = blocks_for(count, kThreads);
  engine::copy_to_device(offsets, a.granules.offsets, offsets_bytes);
  launch(keys_kernel, blocks, kThreads, 0, device_stream(), keys, slots, a.topk_idx_TK.i32(), a.position_E, offsets,
         shape, count);
  engine::sort_pairs({.keys = keys,
                      .values = slots,
                      .sorted_keys = sorted_keys,
                      .sorted_values = sorted_slots,
                      .count = count,
                      .num_keys = num_keys + 1,
                      .scratch = memory + lists,
                      .stream = device_stream()});
  engine::device_fill(a.tokens_N, 0xff, rows * 4);  // -1
  engine::device_fill(a.slots_N, 0xff, rows * 4);
  launch(places_kernel, blocks, kThreads, 0, device_stream(), a.tokens_N, a.slots_N, a.rows_TK, sorted_keys,
         sorted_slots, shape, count);
}

}  // namespace moe::cuda
