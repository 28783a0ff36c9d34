#include "engine/train/load_floor.h"

#include <algorithm>
#include <cmath>

namespace engine::train {
namespace {

double log_probability(int64_t tokens, double share, int64_t count) {
  const double n = static_cast<double>(tokens), k = static_cast<double>(count);
  return std::lgamma(n + 1) - std::lgamma(k + 1) - std::lgamma(n - k + 1) + k * std::log(share) +
         (n - k) * std::log1p(-share);
}

// P(X >= count) for a count above the mean: terms fall from there on.
double sum_upwards(int64_t tokens, double share, int64_t count) {
  double term = std::exp(log_probability(tokens, share, count)), sum = 0;
  const double odds = share / (1 - share);
  for (int64_t k = count; k <= tokens && term > sum * 1e-17; ++k) {
    sum += term;
    term *= static_cast<double>(tokens - k) / static_cast<double>(k + 1) * odds;
  }
  return sum;
}

}  // namespace

double binomial_upper_tail(int64_t tokens, double share, int64_t count) {
  if (count <= 0) return 1;
  if (count > tokens || share <= 0) return 0;
  if (share >= 1) return 1;
  if (static_cast<double>(count) > static_cast<double>(tokens) * share) return sum_upwards(tokens, share, count);
  return 1 - sum_upwards(tokens, 1 - share, tokens - count + 1);
}

double binomial_lower_tail(int64_t tokens, double share, int64_t count) {
  return binomial_upper_tail(tokens, 1 - share, tokens - count);  // as many others
}

CountRange chance_counts(const Routing& routing, int64_t comparisons, double risk) {
  const double p = routing.share(), tail = risk / (2 * static_cast<double>(std::max<int64_t>(1, comparisons)));
  const int64_t T = routing.tokens, mean = static_cast<int64_t>(routing.mean());
  // the smallest count whose upper tail is small enough is a surprise, the one below it is not
  int64_t low = mean, high = T + 1;
  while (low + 1 < high) {
    const int64_t middle = low + (high - low) / 2;
    (binomial_upper_tail(T, p, middle) > tail ? low : high) = middle;
  }
  CountRange range{.high = high - 1};
  int64_t surprise = -1, usual = mean;
  while (surprise + 1 < usual) {
    const int64_t middle = surprise + (usual - surprise) / 2;
    (binomial_lower_tail(T, p, middle) > tail ? usual : surprise) = middle;
  }
  range.low = surprise + 1;
  return range;
}

double chance_variation(const Routing& routing) {
  return routing.mean() > 0 ? std::sqrt((1 - routing.share()) / routing.mean()) : 0;
}

double chance_variation_limit(const Routing& routing, int64_t layers, double risk) {
  const double E = static_cast<double>(routing.experts), k = E - 1;
  if (k <= 0 || routing.mean() <= 0) return 0;
  const double x = std::log(static_cast<double>(std::max<int64_t>(1, layers)) / risk);
  return std::sqrt((1 - routing.share()) / routing.mean() * (k + 2 * std::sqrt(k * x) + 2 * x) / k);
}

double chance_dead(const Routing& routing) {
  return static_cast<double>(routing.experts) *
         std::exp(static_cast<double>(routing.tokens) * std::log1p(-std::min(routing.share(), 1 - 1e-12)));
}

double chance_dropped(const Routing& granule, int64_t capacity) {
  double dropped = 0;
  const double p = granule.share();
  if (p >= 1 || granule.tokens == 0) return 0;
  for (int64_t n = capacity + 1; n <= granule.tokens; ++n) {
    const double more = static_cast<double>(n - capacity) * std::exp(log_probability(granule.tokens, p, n));
    dropped += more;
    if (static_cast<double>(n) > granule.mean() && more < dropped * 1e-12) break;
  }
  return dropped / granule.mean();
}

}  // namespace engine::train
