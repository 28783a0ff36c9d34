#include "engine/core/cuda_search.cuh"
#include "engine/core/device_algorithms.h"
#include "moe/expert_order.h"

namespace moe::cuda {
namespace {

using engine::blocks_for;
using engine::device_stream;
using engine::first_not_below;
using engine::global_thread;
using engine::launch;

constexpr unsigned kThreads = 256;

// Choices of -1 are sorted behind the last expert.
__global__ void keys_kernel(int32_t* keys, int32_t* slots, const int32_t* idx, int64_t count, int32_t experts) {
  const int64_t i = global_thread();
  if (i >= count) return;
  keys[i] = idx[i] < 0 ? experts : idx[i];
  slots[i] = static_cast<int32_t>(i);
}

__global__ void rows_kernel(int32_t* tokens, int32_t* slots, int32_t* rows, const int32_t* sorted_keys,
                            const int32_t* sorted_slots, int64_t count, int64_t slots_per_token, int32_t experts) {
  const int64_t n = global_thread();
  if (n >= count) return;
  const int32_t slot = sorted_slots[n];
  const bool goes = sorted_keys[n] < experts;
  tokens[n] = goes ? static_cast<int32_t>(slot / slots_per_token) : -1;
  slots[n] = goes ? slot : -1;
  rows[slot] = goes ? static_cast<int32_t>(n) : -1;
}

// offsets[e] = the first sorted row whose key is not below e.
__global__ void offsets_kernel(int64_t* offsets, const int32_t* sorted_keys, int64_t count, int64_t experts) {
  const int64_t e = global_thread();
  if (e > experts) return;
  offsets[e] = first_not_below(sorted_keys, 0, count, e);
}

// A thread for each expert and granule: binary search in the expert's tokens.
__global__ void starts_kernel(int64_t* starts, const int32_t* tokens, const int64_t* offsets, const int64_t* granules,
                              int64_t num_granules, int64_t count) {
  const int64_t i = global_thread();
  if (i >= count) return;
  const int64_t e = i / (num_granules + 1), g = i % (num_granules + 1);
  const int64_t begin = offsets[e], end = offsets[e + 1];
  starts[i] = g == num_granules ? end : first_not_below(tokens, begin, end, granules[g]);
}

}  // namespace

void expert_order(const ExpertOrder& a) {
  const int64_t count = a.topk_idx_TK.num_elements(), E = a.num_experts;
  const int64_t lists = (4 * count * 4 + 255) / 256 * 256;
  auto* keys = static_cast<int32_t*>(engine::device_scratch(lists + engine::sort_pairs_scratch_bytes(count, E + 1)));
  int32_t *slots = keys + count, *sorted_keys = slots + count, *sorted_slots = sorted_keys + count;
  const unsigned blocks = blocks_for(count, kThreads);
  launch(keys_kernel, blocks, kThreads, 0, device_stream(), keys, slots, a.topk_idx_TK.i32(), count,
         static_cast<int32_t>(E));
  engine::sort_pairs({.keys = keys,
                      .values = slots,
                      .sorted_keys = sorted_keys,
                      .sorted_values = sorted_slots,
                      .count = count,
                      .num_keys = E + 1,
                      .scratch = reinterpret_cast<char*>(keys) + lists,
                      .stream = device_stream()});
  launch(rows_kernel, blocks, kThreads, 0, device_stream(), a.tokens_N, a.slots_N, a.rows_TK, sorted_keys, sorted_slots,
         count, a.topk_idx_TK.columns(), static_cast<int32_t>(E));
  launch(offsets_kernel, blocks_for(E + 1, kThreads), kThreads, 0, device_stream(), a.offsets, sorted_keys, count, E);
}

void granule_starts(const GranuleStarts& a) {
  const int64_t count = a.num_experts * (a.num_granules + 1);
  auto* granules = static_cast<int64_t*>(engine::device_scratch((a.num_granules + 1) * 8));
  engine::copy_to_device(granules, a.granules, (a.num_granules + 1) * 8);
  launch(starts_kernel, blocks_for(count, kThreads), kThreads, 0, device_stream(), a.starts, a.tokens_N, a.offsets,
         granules, a.num_granules, count);
}

}  // namespace moe::cuda
