// Top-k gating: which experts a token goes to, and with what weight.
//
// logits z[t,e]; scores s[t] = softmax(z[t]) over all experts, or sigmoid(z[t,e]) (DeepSeek-V3).
// Choice: the K largest of s + bias; equal values go to the lower expert. With n_group > 1 only experts of the
// topk_group best groups may be chosen; a group's score is its largest s (softmax, DeepSeek-V2) or the sum of its
// two largest s + bias (sigmoid, DeepSeek-V3). Experts of other groups are masked with -infinity; transformers
// masks with 0, which lets them in where s + bias < 0.
// Weights: w[t,k] = scaling * s[chosen] (/ sum of the chosen s, + 1e-20 for sigmoid, with normalize). The bias only
// chooses.
#pragma once

#include "engine/core/dispatch.h"
#include "engine/core/tensor.h"

namespace moe {

using engine::ConstTensor;
using engine::Tensor;

enum class ScoreFunction { softmax, sigmoid };

struct RouterOptions {
  ScoreFunction scores = ScoreFunction::softmax;
  bool normalize = true;
  float scaling = 1;
  int64_t num_groups = 1, groups_per_token = 1;
  bool force_uniform = false;  // expert (row * K + k) mod E, for benchmarks
};

// All outputs are overwritten. Rows with counted[t] = 0 get choice -1 and weight 0.
struct RouterForward {
  Tensor scores_TE, topk_weights_TK;
  Tensor topk_idx_TK;                // i32
  Tensor lse_T, entropy_T;           // log sum_e exp(z), and -sum_e p log p of p = softmax(z)
  ConstTensor logits_TE, bias_E;     // bias may be absent
  const uint8_t* counted = nullptr;  // [T]; null: all
  int64_t first_row = 0;             // global number of row 0, for force_uniform
  RouterOptions options;
};
void router_forward(const RouterForward& a);

// Gradients of the balance losses over ranges of rows (granules or sequences), see aux_loss.h:
// range i is rows offsets[i] to offsets[i + 1].
struct BalanceGradient {
  const int64_t* offsets = nullptr;  // [count + 1]
  int64_t count = 0;
  const float* dprobabilities = nullptr;  // [count, E]: d(loss)/d(p[t,e]) of every row of the range; null: none
  const float* z_factors = nullptr;       // [count]: d(loss)/d(lse[t]^2); null: none
};

// topk_idx as router_forward gave it; a choice that was dropped later has dtopk_weights 0.
// dlogits_TE is overwritten: through weights and scores from dtopk_weights, plus the balance losses.
// p[t] for the balance losses is s[t], divided by its sum for sigmoid scores.
struct RouterBackward {
  Tensor dlogits_TE;
  ConstTensor dtopk_weights_TK, scores_TE, topk_idx_TK, logits_TE, lse_T;
  BalanceGradient balance;
  RouterOptions options;
};
void router_backward(const RouterBackward& a);

KERNEL(void router_forward(const RouterForward&); void router_backward(const RouterBackward&))

}  // namespace moe
