// What to try, each rule with the numbers that speak for it.
#include <algorithm>
#include <cmath>

#include "engine/train/load_analysis.h"

namespace engine::train {
namespace {

long long number(int64_t n) {
  return static_cast<long long>(n);
}

void about_balance(const LoadAnalysis& a, const RouterConfig& router, std::vector<Advice>& advice) {
  if (a.word == "balanced") return;
  const LayerAnalysis& worst = a.layers[a.worst];
  const std::string seen = a.dead > 0
                               ? print("%lld experts get no token", number(a.dead))
                               : print("layer %lld: max/mean %.2f, chance gives up to %.2f", number(worst.window.layer),
                                       worst.load.max_over_mean, worst.load.max_by_chance);
  if (router.aux_loss_coef == 0 && router.bias_update_rate == 0) {
    advice.push_back({seen + "; model.router.aux_loss_coef and bias_update_rate are 0",
                      "balance them: model.router.aux_loss_coef 0.01, or bias_update_rate 0.001"});
  } else if (router.aux_loss_coef > 0) {
    advice.push_back({print("%s; model.router.aux_loss_coef is %g", seen.c_str(), router.aux_loss_coef),
                      print("a larger model.router.aux_loss_coef, such as %g%s", 3 * router.aux_loss_coef,
                            router.bias_update_rate == 0 ? ", or bias_update_rate 0.001 beside it" : "")});
  } else {
    advice.push_back({print("%s; model.router.bias_update_rate is %g", seen.c_str(), router.bias_update_rate),
                      print("a larger model.router.bias_update_rate, such as %g, or a small aux_loss_coef beside it",
                            3 * router.bias_update_rate)});
  }
}

void about_ranks(const LoadAnalysis& a, std::vector<Advice>& advice) {
  double overload = 1;
  for (const LayerAnalysis& layer : a.layers) overload = std::max(overload, layer.window.mean_overload);
  if (a.ranks.size() < 2 || overload < 1.1) return;
  advice.push_back({print("the fullest of %lld ranks has %.2f x the mean rows of a layer",
                          static_cast<long long>(a.ranks.size()), overload),
                    "spread the experts by load: parallel.expert_placement \"auto\", or a plan of `experts simulate`"});
}

void about_drops(const LoadAnalysis& a, const RouterConfig& router, std::vector<Advice>& advice) {
  if (!router.capacity_factor || a.drop_rate < 0.01) return;
  advice.push_back({print("%.1f %% of the choices are dropped, chance alone drops %.1f %%; capacity_factor is %g",
                          100 * a.drop_rate, 100 * a.drop_by_chance, *router.capacity_factor),
                    a.drop_rate > 2 * a.drop_by_chance
                        ? "balance the load first, or model.router.capacity_factor null, which drops nothing"
                        : "a larger capacity_factor, or null, which drops nothing"});
}

void about_router(const LoadAnalysis& a, const Config& config, std::vector<Advice>& advice) {
  const RouterConfig& router = config.model.router;
  const double most = std::log(static_cast<double>(config.model.num_experts));
  for (const LayerAnalysis& layer : a.layers) {
    if (config.model.num_experts > 1 && layer.window.router_entropy < 0.05 * most) {
      advice.push_back(
          {print("layer %lld: the router's entropy is %.3f nats of at most %.3f, so it hardly learns any more",
                 number(layer.window.layer), layer.window.router_entropy, most),
           router.z_loss_coef == 0 ? "model.router.z_loss_coef 0.001 keeps logits small"
                                   : "a larger model.router.z_loss_coef"});
      break;
    }
  }
  // the balance loss of kind switch is 1 when either factor is even
  for (const LayerAnalysis& layer : a.layers) {
    if (router.aux_loss_kind != "switch" || router.aux_loss_coef == 0 || layer.window.aux_loss >= 0.999) continue;
    advice.push_back({print("layer %lld: the balance loss is %.4f, below the 1 of an even load: the router gives "
                            "probability to experts that it does not choose",
                            number(layer.window.layer), layer.window.aux_loss),
                      "model.router.aux_loss_scope \"global\", or bias_update_rate in place of the loss"});
    break;
  }
  for (const LayerAnalysis& layer : a.layers) {
    if (layer.window.expert_bias.empty()) continue;
    const auto [low, high] = std::minmax_element(layer.window.expert_bias.begin(), layer.window.expert_bias.end());
    if (*high - *low < 0.5) continue;
    advice.push_back({print("layer %lld: expert biases range from %.2f to %.2f, as wide as the scores themselves",
                            number(layer.window.layer), *low, *high),
                      print("a smaller model.router.bias_update_rate than %g", router.bias_update_rate)});
    break;
  }
}

// Where one source fills the fullest expert, the mix of the data is what is uneven.
void about_sources(const LoadAnalysis& a, std::vector<Advice>& advice, const std::vector<SourceConfig>& sources) {
  const LayerAnalysis& worst = a.layers[a.worst];
  if (!worst.load.beyond_chance || worst.window.tokens_by_source.size() < 2) return;
  double all = 0, on_expert = 0, largest_gap = 0, share_there = 0, share_all = 0;
  size_t found = 0;
  for (const std::vector<int64_t>& source : worst.window.tokens_by_source) {
    for (int64_t n : source) all += static_cast<double>(n);
    on_expert += static_cast<double>(source[static_cast<size_t>(worst.load.fullest)]);
  }
  for (size_t s = 0; s < worst.window.tokens_by_source.size(); ++s) {
    double total = 0;
    for (int64_t n : worst.window.tokens_by_source[s]) total += static_cast<double>(n);
    const double there =
        static_cast<double>(worst.window.tokens_by_source[s][static_cast<size_t>(worst.load.fullest)]) / on_expert;
    if (there - total / all <= largest_gap) continue;
    largest_gap = there - total / all, share_there = there, share_all = total / all, found = s;
  }
  if (largest_gap < 0.2 || found >= sources.size()) return;
  advice.push_back({print("layer %lld: %.0f %% of expert %lld's tokens are of source \"%s\", which is %.0f %% of all",
                          number(worst.window.layer), 100 * share_there, number(worst.load.fullest),
                          sources[found].name.substr(0, 60).c_str(), 100 * share_all),
                    "the expert has specialised; other weights in data.sources move the load"});
}

}  // namespace

std::vector<Advice> advise(const LoadAnalysis& analysis, const Config& config) {
  std::vector<Advice> advice;
  if (config.model.router.force == "uniform") {
    advice.push_back(
        {"model.router.force is \"uniform\"", "experts are not chosen by the router; the load says nothing"});
    return advice;
  }
  about_balance(analysis, config.model.router, advice);
  about_ranks(analysis, advice);
  about_drops(analysis, config.model.router, advice);
  about_router(analysis, config, advice);
  about_sources(analysis, advice, config.data.sources);
  if (advice.empty()) advice.push_back({"nothing is at stake", "leave it as it is"});
  return advice;
}

}  // namespace engine::train
