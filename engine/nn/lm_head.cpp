#include "engine/nn/lm_head.h"

#include <algorithm>

#include "engine/ops/cross_entropy.h"

namespace engine::nn {
namespace {

// Of logits: on the CPU 256 rows and more lose nothing to re-reading the weight, a GPU wants products of some size.
constexpr int64_t chunk_bytes(Device device) {
  return device == Device::cpu ? int64_t{8} << 20 : int64_t{512} << 20;
}

}  // namespace

LmHead::LmHead(ParameterStore& store, int64_t vocab_size, int64_t hidden_size, double deviation, Parameter* tied)
    : device_(store.device()), vocab_size_(vocab_size) {
  if (tied != nullptr) {
    linear_ = std::make_unique<Linear>(store, *tied);
  } else {
    linear_ = std::make_unique<Linear>(
        store, ParameterSpec{.name = "lm_head.weight", .dims = {vocab_size, hidden_size}, .deviation = deviation},
        false);
  }
}

void LmHead::plan(ArenaPlan& plan, int64_t max_rows) {
  chunk_rows_ = std::min(max_rows, std::max<int64_t>(256, chunk_bytes(device_) / (4 * vocab_size_)));
  logits_ = plan.scratch("logits_TV", DType::f32, {chunk_rows_, vocab_size_});
  // in f32 the gradient takes the logits' place
  dlogits_ = plan.activations() == DType::f32
                 ? logits_
                 : plan.scratch("dlogits_TV", plan.activations(), {chunk_rows_, vocab_size_});
}

void LmHead::loss(const Pass& pass, ConstTensor x_TD, ConstTensor targets_T, Tensor losses_T, Tensor dx_TD) {
  // Chunks end where granules do, so that a granule's weight gradient stays one chain.
  const int64_t one_range[2] = {0, pass.num_rows()};
  const int64_t* offsets = pass.training ? pass.granules.offsets : one_range;
  const int64_t ranges = pass.training ? pass.granules.count : 1;
  for (int64_t g = 0; g < ranges; ++g) {
    for (int64_t begin = offsets[g]; begin < offsets[g + 1]; begin += chunk_rows_) {
      const int64_t end = std::min(begin + chunk_rows_, offsets[g + 1]), rows = end - begin;
      const bool granule_over = end == offsets[g + 1] && (g + 1 < ranges || pass.granules.ends);
      const bool granule_begins = begin == offsets[g] && (g > 0 || pass.granules.begins);
      loss_of_chunk(pass, x_TD.slice_rows(begin, rows), targets_T.slice_rows(begin, rows),
                    losses_T.slice_rows(begin, rows), pass.training ? dx_TD.slice_rows(begin, rows) : Tensor(),
                    granule_begins, granule_over);
    }
  }
}

void LmHead::loss_of_chunk(const Pass& pass, ConstTensor x_TD, ConstTensor targets_T, Tensor losses_T, Tensor dx_TD,
                           bool begins_granule, bool ends_granule) {
  const int64_t rows = x_TD.rows();
  Tensor logits_TV = pass.arena->view(logits_, rows), dlogits_TV = pass.arena->view(dlogits_, rows);
  linear_->forward(x_TD, logits_TV);
  ops::cross_entropy({.losses_T = losses_T,
                      .dlogits_TV = pass.training ? dlogits_TV : Tensor(),
                      .logits_TV = logits_TV,
                      .targets_T = targets_T,
                      .scale = static_cast<float>(pass.loss_scale)});
  if (!pass.training) return;
  linear_->backward_input(dlogits_TV, dx_TD, false);
  const int64_t offsets[2] = {0, rows};
  linear_->backward_weight(x_TD, dlogits_TV,
                           {.offsets = offsets, .count = 1, .ends = ends_granule, .begins = begins_granule});
}

}  // namespace engine::nn
