// An MoE layer in double precision, written down as the definitions have it, one token after another.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "engine/config/config.h"

namespace test {

using Doubles = std::vector<double>;
using DoubleWeights = std::map<std::string, Doubles>;

struct MoeReference {
  engine::ModelConfig config;
  std::string prefix;
  int64_t tokens_per_granule = 0, tokens_per_sequence = 0;
  std::vector<uint8_t> counted;          // per token
  Doubles expert_bias;                   // [E] or empty
  std::vector<int64_t> previous_counts;  // [E] of the step before, for the scope "global"

  struct Result {
    Doubles y_TD;
    double balance = 0;                           // coefficients times losses, mean over granules
    std::vector<std::vector<int>> idx;            // choices before drops
    std::vector<std::vector<bool>> kept;          // by slot
    Doubles kept_weight_T;                        // sum of the weights that were not dropped
    double entropy = 0, first_weight = 0, z = 0;  // sums over counted tokens, of what is recorded of a router
  };

  Result operator()(const Doubles& x_TD, const DoubleWeights& weights) const {
    const size_t D = static_cast<size_t>(config.hidden_size), T = x_TD.size() / D;
    Result r;
    r.y_TD.assign(x_TD.size(), 0.0);
    Doubles scores, lse;
    std::vector<Doubles> topk;
    for (size_t t = 0; t < T; ++t) {
      const Doubles x(x_TD.begin() + static_cast<long>(t * D), x_TD.begin() + static_cast<long>((t + 1) * D));
      route(matmul(weights.at(prefix + "gate.weight"), x), counted[t] != 0, scores, lse, r, topk);
    }
    drop(topk, r);
    for (size_t t = 0; t < T; ++t) {
      const Doubles x(x_TD.begin() + static_cast<long>(t * D), x_TD.begin() + static_cast<long>((t + 1) * D));
      double kept_weight = 0;
      for (size_t k = 0; k < r.idx[t].size(); ++k) {
        if (!r.kept[t][k]) continue;
        const Doubles out = ffn(weights, "experts." + std::to_string(r.idx[t][k]) + ".", x);
        for (size_t d = 0; d < D; ++d) r.y_TD[t * D + d] += topk[t][k] * out[d];
        kept_weight += topk[t][k];
      }
      r.kept_weight_T.push_back(kept_weight);
      if (config.n_shared_experts == 0) continue;
      const Doubles out = ffn(weights, "shared_experts.", x);
      const double gate =
          config.shared_expert_gate ? sigmoid(matmul(weights.at(prefix + "shared_expert_gate.weight"), x)[0]) : 1.0;
      for (size_t d = 0; d < D; ++d) r.y_TD[t * D + d] += gate * out[d];
    }
    r.balance = balance(scores, lse, r);
    return r;
  }

 private:
  static double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
  static Doubles matmul(const Doubles& w_NK, const Doubles& x_K) {
    Doubles y(w_NK.size() / x_K.size());
    for (size_t n = 0; n < y.size(); ++n) {
      for (size_t k = 0; k < x_K.size(); ++k) y[n] += w_NK[n * x_K.size() + k] * x_K[k];
    }
    return y;
  }
  Doubles ffn(const DoubleWeights& weights, const std::string& name, const Doubles& x) const {
    const Doubles gate = matmul(weights.at(prefix + name + "gate_proj.weight"), x);
    Doubles h = matmul(weights.at(prefix + name + "up_proj.weight"), x);
    for (size_t i = 0; i < h.size(); ++i) h[i] *= gate[i] * sigmoid(gate[i]);
    return matmul(weights.at(prefix + name + "down_proj.weight"), h);
  }

  // Group-limited choice, then weights: definitions 4.6 and 4.7.
  void route(const Doubles& z, bool routed, Doubles& scores, Doubles& lse, Result& r,
             std::vector<Doubles>& topk) const {
    const size_t E = z.size(), K = static_cast<size_t>(config.num_experts_per_tok);
    const bool is_sigmoid = config.scoring_func == "sigmoid";
    double sum = 0;
    for (double v : z) sum += std::exp(v);
    Doubles s(E), choice(E);
    for (size_t e = 0; e < E; ++e) {
      s[e] = is_sigmoid ? sigmoid(z[e]) : std::exp(z[e]) / sum;
      choice[e] = s[e] + (expert_bias.empty() ? 0.0 : expert_bias[e]);
    }
    scores.insert(scores.end(), s.begin(), s.end());
    lse.push_back(std::log(sum));
    mask_groups(is_sigmoid ? choice : s, choice);
    std::vector<int> idx(E);
    std::iota(idx.begin(), idx.end(), 0);
    std::stable_sort(idx.begin(), idx.end(),
                     [&](int a, int b) { return choice[static_cast<size_t>(a)] > choice[static_cast<size_t>(b)]; });
    idx.resize(routed ? K : 0);
    double divisor = is_sigmoid ? 1e-20 : 0.0;
    for (int e : idx) divisor += s[static_cast<size_t>(e)];
    Doubles w;
    for (int e : idx) {
      w.push_back(s[static_cast<size_t>(e)] / (config.norm_topk_prob ? divisor : 1.0) * config.routed_scaling_factor);
    }
    r.idx.push_back(idx);
    topk.push_back(w);
    if (!routed) return;
    for (double v : z) r.entropy += std::exp(v) / sum * (std::log(sum) - v);  // -sum of p ln p
    r.first_weight += w[0];
    r.z += std::log(sum) * std::log(sum);
  }
  void mask_groups(const Doubles& ranked, Doubles& choice) const {
    const size_t G = static_cast<size_t>(config.n_group), size = choice.size() / G;
    if (G == 1) return;
    std::vector<std::pair<double, size_t>> groups;
    for (size_t g = 0; g < G; ++g) {
      Doubles part(ranked.begin() + static_cast<long>(g * size), ranked.begin() + static_cast<long>((g + 1) * size));
      std::sort(part.rbegin(), part.rend());
      groups.push_back({-(config.scoring_func == "sigmoid" ? part[0] + part[1] : part[0]), g});
    }
    std::sort(groups.begin(), groups.end());
    for (size_t i = static_cast<size_t>(config.topk_group); i < G; ++i) {
      for (size_t e = 0; e < size; ++e) choice[groups[i].second * size + e] = -INFINITY;
    }
  }

  // Per granule and expert the largest weights or the earliest tokens stay: definition 4.9.
  void drop(const std::vector<Doubles>& topk, Result& r) const {
    const size_t T = topk.size();
    for (const Doubles& weights : topk) r.kept.push_back(std::vector<bool>(weights.size(), true));
    if (!config.router.capacity_factor) return;
    const size_t size = static_cast<size_t>(tokens_per_granule);
    for (size_t begin = 0; begin < T; begin += size) {
      double routed = 0;
      for (size_t t = begin; t < begin + size; ++t) routed += counted[t] != 0 ? 1 : 0;
      const double E = static_cast<double>(config.num_experts), K = static_cast<double>(config.num_experts_per_tok);
      const size_t capacity = static_cast<size_t>(std::ceil(routed * K / E * *config.router.capacity_factor));
      for (int e = 0; e < config.num_experts; ++e) {
        std::vector<std::pair<double, std::pair<size_t, size_t>>> takers;
        for (size_t t = begin; t < begin + size; ++t) {
          for (size_t k = 0; k < r.idx[t].size(); ++k) {
            if (r.idx[t][k] == e) takers.push_back({config.router.drop_policy == "probs" ? -topk[t][k] : 0.0, {t, k}});
          }
        }
        std::sort(takers.begin(), takers.end());
        for (size_t i = capacity; i < takers.size(); ++i)
          r.kept[takers[i].second.first][takers[i].second.second] = false;
      }
    }
  }

  // Switch loss and z-loss of every granule (or sequence): definitions 4.1 to 4.4.
  double balance(const Doubles& scores, const Doubles& lse, const Result& r) const {
    const size_t T = lse.size(), granule = static_cast<size_t>(tokens_per_granule);
    const bool by_sequence = config.router.aux_loss_scope == "sequence";
    const size_t range = by_sequence ? static_cast<size_t>(tokens_per_sequence) : granule;
    double total = 0;
    for (size_t begin = 0; begin < T; begin += range) {
      total += config.router.aux_loss_coef * switch_loss(scores, r, begin, begin + range) * static_cast<double>(range) /
               static_cast<double>(T);
    }
    for (size_t begin = 0; begin < T; begin += granule) {
      double squares = 0, routed = 0;
      for (size_t t = begin; t < begin + granule; ++t) {
        if (counted[t] != 0) squares += lse[t] * lse[t], routed += 1;
      }
      if (routed > 0)
        total += config.router.z_loss_coef * squares / routed * static_cast<double>(granule) / static_cast<double>(T);
    }
    return total;
  }
  double switch_loss(const Doubles& scores, const Result& r, size_t begin, size_t end) const {
    const size_t E = static_cast<size_t>(config.num_experts);
    Doubles n(E), p(E);
    double tokens = 0, choices = 0;
    for (size_t t = begin; t < end; ++t) {
      if (counted[t] == 0) continue;
      double sum = 0;
      for (size_t e = 0; e < E; ++e) sum += config.scoring_func == "sigmoid" ? scores[t * E + e] : 0.0;
      for (size_t e = 0; e < E; ++e) p[e] += scores[t * E + e] / (sum > 0 ? sum : 1.0);
      for (int e : r.idx[t]) n[static_cast<size_t>(e)] += 1;
      tokens += 1;
    }
    if (tokens == 0) return 0;
    if (config.router.aux_loss_scope == "global" && !previous_counts.empty())
      n.assign(previous_counts.begin(), previous_counts.end());
    double loss = 0;
    for (double count : n) choices += count;
    for (size_t e = 0; e < E; ++e) loss += static_cast<double>(E) * n[e] / choices * p[e] / tokens;
    return loss;
  }
};

}  // namespace test
