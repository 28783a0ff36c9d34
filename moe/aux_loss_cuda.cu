#include "moe/aux_loss.h"

#include "engine/core/cuda_launch.cuh"

namespace moe::cuda {
namespace {

using engine::blocks_for;
using engine::device_stream;
using engine::launch;

constexpr unsigned kThreads = 128;

// A block for each granule: a thread for each sequence, and one that adds up.
__global__ void sequence_kernel(double* granule_sums, const double* sequence_sums, int64_t sequences, int64_t E) {
  SHARED(double, losses, [kThreads]);
  const int64_t g = blockIdx.x, width = routing_sums_width(E);
  double total = 0;
  for (int64_t first = 0; first < sequences; first += kThreads) {
    const int64_t s = first + threadIdx.x;
    if (s < sequences) losses[threadIdx.x] = switch_loss(sequence_sums + (g * sequences + s) * width, E);
    __syncthreads();
    for (int64_t i = 0; threadIdx.x == 0 && i < kThreads && first + i < sequences; ++i) total += losses[i];
    __syncthreads();
  }
  if (threadIdx.x == 0) granule_sums[g * width + 2 * E + kAuxLoss] += total;
}

// A block for each range. Numbers of choices are whole: their sum has no order.
__global__ void gradient_kernel(float* dprobabilities, const double* sums, const double* counts_of_all, double factor,
                                int64_t E) {
  sums += blockIdx.x * routing_sums_width(E);
  const double *counts = counts_of_all != nullptr ? counts_of_all : sums + E, tokens = sums[2 * E + kCounted];
  double choices = 0;
  for (int64_t e = 0; e < E; ++e) choices += counts[e];
  const double scale = choices == 0 || tokens == 0 ? 0.0 : factor * static_cast<double>(E) / (choices * tokens);
  for (int64_t e = threadIdx.x; e < E; e += kThreads) {
    dprobabilities[blockIdx.x * E + e] = static_cast<float>(scale * counts[e]);
  }
}

}  // namespace

void sequence_losses(const SequenceLosses& a) {
  launch(sequence_kernel, blocks_for(a.num_granules, 1), kThreads, 0, device_stream(), a.granule_sums, a.sequence_sums,
         a.sequences_per_granule, a.num_experts);
}

void switch_loss_gradient(const SwitchLossGradient& a) {
  launch(gradient_kernel, blocks_for(a.num_ranges, 1), kThreads, 0, device_stream(), a.dprobabilities_NE, a.sums,
         a.counts_E, a.factor, a.num_experts);
}

}  // namespace moe::cuda
