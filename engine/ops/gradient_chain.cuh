// Weight gradients that sum rows, and the end of a granule; for GPU kernel files only.
//
// The sum over the rows of a granule has one order: chains over 64 rows each, counted from where the granule begins
// in the pass, then a chain over these partial sums that goes on from the gradient's chain. So the bits depend on no
// schedule and on no other granule; they do depend on where passes cut a granule, unless at a multiple of 64 rows.
#pragma once

#include "engine/core/cuda_launch.cuh"
#include "engine/core/gradient.h"

namespace engine::ops::cuda {

inline constexpr int64_t kRowsPerChain = 64;
inline constexpr unsigned kChainThreads = 128;

// See engine::simd::end_granule of the CPU; the same operations.
static __global__ void end_granule_kernel(float* chain, double* sum, double grid_here, const double* grid_there,
                                          uint32_t* max_bits, int64_t count) {
  const int64_t i = global_thread();
  if (i >= count) return;
  const double grid = grid_there != nullptr ? *grid_there : grid_here;
  const float p = chain[i];
  if (max_bits != nullptr) atomicMax(max_bits, __float_as_uint(p) & 0x7fffffffu);
  const double rounded = static_cast<double>(p) + grid;
  sum[i] += rounded - grid;
  chain[i] = 0.0f;
}

inline void end_granule(const WeightGradient& gradient) {
  if (gradient.sum == nullptr) return;
  const int64_t count = gradient.chain.num_elements();
  launch(end_granule_kernel, blocks_for(count, kChainThreads), kChainThreads, 0, device_stream(), gradient.chain.f32(),
         gradient.sum, gradient.grid, gradient.grid_there, gradient.max_bits, count);
}

// partial[b, n] = sum of term(row, n) over the rows of chain b.
template <class Term>
static __global__ void partial_sums_kernel(float* partial, Term term, int64_t begin, int64_t end, int64_t columns) {
  const int64_t n = global_thread();
  if (n >= columns) return;
  const int64_t first = begin + blockIdx.y * kRowsPerChain;
  const int64_t last = first + kRowsPerChain < end ? first + kRowsPerChain : end;
  float sum = 0;
  for (int64_t t = first; t < last; ++t) sum = term(sum, t, n);
  partial[blockIdx.y * columns + n] = sum;
}

static __global__ void add_partial_sums_kernel(float* chain, const float* partial, int64_t chains, int64_t columns) {
  const int64_t n = global_thread();
  if (n >= columns) return;
  float sum = chain[n];
  for (int64_t b = 0; b < chains; ++b) sum = sum + partial[b * columns + n];
  chain[n] = sum;
}

// gradient[n] += sum over the rows t of each granule, term(s, t, n) giving s plus what row t adds. The offsets of the
// granules are in host memory.
template <class Term>
void add_row_sums(const WeightGradient& gradient, const GranuleRows& granules, Term term) {
  const int64_t columns = gradient.chain.num_elements();
  const unsigned blocks = blocks_for(columns, kChainThreads);
  constexpr int64_t kMostChains = 65535;
  for (int64_t g = 0; g < granules.count; ++g) {
    const int64_t begin = granules.offsets[g], end = granules.offsets[g + 1];
    const int64_t chains = (end - begin + kRowsPerChain - 1) / kRowsPerChain;
    ENSURE(chains <= kMostChains, "a granule has ", end - begin, " rows in one pass, at most ",
           kMostChains * kRowsPerChain, " are possible");
    if (chains > 0) {
      auto* partial = static_cast<float*>(device_scratch(chains * columns * 4));
      launch(partial_sums_kernel<Term>, dim3(blocks, static_cast<unsigned>(chains)), kChainThreads, 0, device_stream(),
             partial, term, begin, end, columns);
      launch(add_partial_sums_kernel, blocks, kChainThreads, 0, device_stream(), gradient.chain.f32(), partial, chains,
             columns);
    }
    if (g + 1 < granules.count || granules.ends) end_granule(gradient);
  }
}

}  // namespace engine::ops::cuda
