#include <algorithm>
#include <utility>

#include "engine/core/cuda_search.cuh"
#include "engine/core/device_algorithms.h"
#include "moe/capacity.h"

// Choices are sorted by granule and expert, those of one expert as they are to be kept: by two stable sorts, first by
// weight. What lies behind the first capacities[g] of them is dropped.
namespace moe::cuda {
namespace {

using engine::blocks_for;
using engine::device_stream;
using engine::first_not_below;
using engine::global_thread;
using engine::launch;

constexpr unsigned kThreads = 256;
constexpr int64_t kWeightKeys = int64_t{1} << 31;

__global__ void weight_keys_kernel(int32_t* keys, int32_t* choices, const float* weights, int64_t count) {
  const int64_t i = global_thread();
  if (i >= count) return;
  keys[i] = static_cast<int32_t>(0x7fffffffu - (__float_as_uint(weights[i]) & 0x7fffffffu));
  choices[i] = static_cast<int32_t>(i);
}

__global__ void positions_kernel(int32_t* choices, int64_t count) {
  const int64_t i = global_thread();
  if (i < count) choices[i] = static_cast<int32_t>(i);
}

struct Granules {
  const int64_t *offsets, *capacities;
  int64_t count, experts;
};

// g * E + expert; what is not routed, or beyond the last granule, comes behind all of them.
__global__ void bucket_keys_kernel(int32_t* keys, const int32_t* choices, const int32_t* idx, int64_t slots,
                                   Granules granules, int64_t count) {
  const int64_t n = global_thread();
  if (n >= count) return;
  const int32_t choice = choices[n], expert = idx[choice];
  int64_t g = 0;
  while (g < granules.count && choice / slots >= granules.offsets[g + 1]) ++g;
  keys[n] = static_cast<int32_t>(expert < 0 || g == granules.count ? granules.count * granules.experts
                                                                   : g * granules.experts + expert);
}

__global__ void drop_kernel(int32_t* idx, const int32_t* keys, const int32_t* choices, Granules granules,
                            int64_t count) {
  const int64_t n = global_thread();
  if (n >= count || keys[n] == granules.count * granules.experts) return;
  const int64_t g = keys[n] / granules.experts;
  if (n - first_not_below(keys, 0, count, keys[n]) >= granules.capacities[g]) idx[choices[n]] = -1;
}

// A thread for each granule.
__global__ void dropped_kernel(int64_t* dropped, const int32_t* keys, Granules granules, int64_t count) {
  const int64_t g = global_thread();
  if (g >= granules.count) return;
  int64_t total = 0, begin = first_not_below(keys, 0, count, g * granules.experts);
  for (int64_t e = 0; e < granules.experts; ++e) {
    const int64_t end = first_not_below(keys, 0, count, g * granules.experts + e + 1);
    const int64_t excess = end - begin - granules.capacities[g];
    total += excess > 0 ? excess : 0;
    begin = end;
  }
  dropped[g] = total;
}

}  // namespace

void drop_over_capacity(const DropOverCapacity& a) {
  const int64_t count = a.topk_idx_TK.num_elements(), G = a.granules.count, buckets = G * a.num_experts + 1;
  const int64_t lists = 4 * count * 4, on_host = (lists + 255) / 256 * 256;
  const int64_t sorting = on_host + ((2 * G + 1) * 8 + 255) / 256 * 256;
  const int64_t scratch =
      std::max(engine::sort_pairs_scratch_bytes(count, kWeightKeys), engine::sort_pairs_scratch_bytes(count, buckets));
  auto* memory = static_cast<char*>(engine::device_scratch(sorting + scratch));
  auto* keys = reinterpret_cast<int32_t*>(memory);
  int32_t *choices = keys + count, *sorted_keys = choices + count, *sorted_choices = sorted_keys + count;
  auto* offsets = reinterpret_cast<int64_t*>(memory + on_host);
  engine::copy_to_device(offsets, a.granules.offsets, (G + 1) * 8);
  engine::copy_to_device(offsets + G + 1, a.capacities, G * 8);
  const Granules granules{.offsets = offsets, .capacities = offsets + G + 1, .count = G, .experts = a.num_experts};
  const unsigned blocks = blocks_for(count, kThreads);
  engine::SortPairs sort{.keys = keys,
                         .values = choices,
                         .sorted_keys = sorted_keys,
                         .sorted_values = sorted_choices,
                         .count = count,
                         .num_keys = kWeightKeys,
                         .scratch = memory + sorting,
                         .stream = device_stream()};
  if (a.by_weight) {
    launch(weight_keys_kernel, blocks, kThreads, 0, device_stream(), keys, choices, a.topk_weights_TK.f32(), count);
    engine::sort_pairs(sort);
    std::swap(choices, sorted_choices);
  } else {
    launch(positions_kernel, blocks, kThreads, 0, device_stream(), choices, count);
  }
  launch(bucket_keys_kernel, blocks, kThreads, 0, device_stream(), keys, choices, a.topk_idx_TK.i32(),
         a.topk_idx_TK.columns(), granules, count);
  sort.values = choices, sort.sorted_values = sorted_choices, sort.num_keys = buckets;
  engine::sort_pairs(sort);
  launch(drop_kernel, blocks, kThreads, 0, device_stream(), a.topk_idx_TK.i32(), sorted_keys, sorted_choices, granules,
         count);
  launch(dropped_kernel, blocks_for(G, kThreads), kThreads, 0, device_stream(), a.dropped, sorted_keys, granules,
         count);
}

}  // namespace moe::cuda
