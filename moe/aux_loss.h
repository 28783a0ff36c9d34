// Load-balancing losses: values and gradients with respect to the router's probabilities.
//
// For a range of T routed tokens (a granule, or a sequence), n_e choices of expert e (all K slots, before drops),
// f_e = n_e / (K T), P_e = mean_t p[t,e]:
//   switch:  L = E sum_e f_e P_e                          1 when balanced   (Megatron-LM, per layer)
//   hf:      the same over the rows of all layers together, times K         (transformers load_balancing_loss_func)
//   global:  f_e from the counts of the whole previous step, P_e of the granule (arXiv 2501.11873); in the first
//            step f_e of the granule
//   z-loss:  mean_t (log sum_e exp z[t,e])^2              (ST-MoE)
// Training adds coefficient * L, mean over granules (sequences), summed over layers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moe {

// L = E sum_e f_e P_e, f_e = counts_e / sum of counts, P_e = probability_sums_e / num_tokens; 0 without tokens.
double switch_loss(std::span<const int64_t> tokens_per_expert, std::span<const double> probability_sums,
                   int64_t num_tokens);

// d(L)/d(p[t,e]) = E * f_e / T for every token of the range, times `factor`.
void switch_loss_gradient(std::span<const int64_t> tokens_per_expert, int64_t num_tokens, double factor,
                          std::span<float> dprobabilities);

// The counts and probabilities of all MoE layers of a model, for the loss of kind "hf".
class AuxLossPool {
 public:
  void begin_step(int64_t granules, int64_t experts);
  // Adds one layer's range; complete when every layer's forward has run.
  void add(int64_t granule, std::span<const int64_t> tokens_per_expert, std::span<const double> probability_sums,
           int64_t num_tokens);
  double loss(int64_t granule) const;
  // d(L)/d(p[t,e]) times `factor`, the same for every token of every layer.
  void gradient(int64_t granule, double factor, std::span<float> dprobabilities) const;

 private:
  int64_t experts_ = 0;
  std::vector<int64_t> tokens_per_expert_GE_, rows_G_;  // rows: tokens summed over layers
  std::vector<double> probability_sums_GE_;
};

}  // namespace moe
