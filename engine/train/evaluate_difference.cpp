#include "engine/train/evaluate_difference.h"

#include <algorithm>
#include <cmath>

#include "engine/core/error.h"

namespace engine::train {
namespace {

// Blocks of at least sixteen windows where there are enough of them.
int64_t blocks_of(int64_t windows) {
  return std::min(windows, std::clamp<int64_t>(windows / 16, 4, 32));
}

struct Stratum {
  std::vector<double> differences;  // of each window, in nats
  std::vector<int64_t> tokens;
};

struct Estimate {
  double tokens = 0, difference = 0, variance = 0;  // variance: of the mean
  double degrees = 0;
};

Estimate estimate(const Stratum& stratum) {
  const int64_t windows = static_cast<int64_t>(stratum.tokens.size()), blocks = blocks_of(windows);
  std::vector<double> sums(static_cast<size_t>(blocks)), sizes(static_cast<size_t>(blocks));
  Estimate all;
  for (int64_t w = 0; w < windows; ++w) {
    const size_t block = static_cast<size_t>(w * blocks / windows), at = static_cast<size_t>(w);
    sums[block] += stratum.differences[at];
    sizes[block] += static_cast<double>(stratum.tokens[at]);
    all.difference += stratum.differences[at];
    all.tokens += static_cast<double>(stratum.tokens[at]);
  }
  if (blocks < 2) return all;
  const double mean = all.difference / all.tokens;
  double squares = 0;
  for (size_t j = 0; j < sums.size(); ++j) squares += (sums[j] - mean * sizes[j]) * (sums[j] - mean * sizes[j]);
  all.degrees = static_cast<double>(blocks - 1);
  all.variance = static_cast<double>(blocks) / all.degrees * squares / (all.tokens * all.tokens);
  return all;
}

}  // namespace

std::string LossDifference::verdict() const {
  if (!has_interval || (low <= 0 && high >= 0)) return "no difference shown";
  return mean > 0 ? "worse" : "better";
}

LossDifference difference_of(const std::vector<const EvalResult*>& a, const std::vector<const EvalResult*>& b) {
  LossDifference result;
  result.identical = true;
  std::vector<Stratum> strata;
  for (size_t s = 0; s < a.size(); ++s) {
    ENSURE(a[s]->window_tokens == b[s]->window_tokens, "set ", s, " has other windows");
    // a source of one window says nothing about its spread: it is counted with the one before
    if (strata.empty() || a[s]->window_tokens.size() > 1) strata.emplace_back();
    for (size_t w = 0; w < a[s]->window_tokens.size(); ++w) {
      strata.back().differences.push_back(a[s]->window_nats[w] - b[s]->window_nats[w]);
      strata.back().tokens.push_back(a[s]->window_tokens[w]);
      result.identical = result.identical && a[s]->window_nats[w] == b[s]->window_nats[w];
      ++result.windows;
    }
  }
  if (strata.size() > 1 && strata.front().tokens.size() == 1) {
    strata[1].differences.push_back(strata[0].differences[0]);
    strata[1].tokens.push_back(strata[0].tokens[0]);
    strata.erase(strata.begin());
  }
  std::vector<Estimate> estimates;
  double tokens = 0;
  for (const Stratum& stratum : strata) {
    estimates.push_back(estimate(stratum));
    tokens += estimates.back().tokens;
    result.mean += estimates.back().difference;
  }
  if (tokens == 0) return result;
  result.mean /= tokens;
  result.has_interval = result.windows > 1;
  double variance = 0, per_degree = 0;
  for (const Estimate& e : estimates) {
    const double part = e.tokens / tokens * (e.tokens / tokens) * e.variance;
    variance += part;
    if (e.degrees > 0) per_degree += part * part / e.degrees;
  }
  const double degrees = per_degree > 0 ? variance * variance / per_degree : 1;
  const double reach = variance > 0 ? student_quantile(degrees) * std::sqrt(variance) : 0;
  result.low = result.mean - reach;
  result.high = result.mean + reach;
  return result;
}

double student_quantile(double degrees) {
  const double table[] = {12.7062, 4.30265, 3.18245};
  if (degrees < 3) {
    const double from = std::max(1.0, std::floor(degrees)), part = std::max(1.0, degrees) - from;
    const size_t at = static_cast<size_t>(from) - 1;
    return table[at] + part * (table[at + 1] - table[at]);
  }
  // Abramowitz and Stegun 26.7.5
  const double z = 1.959963985, z3 = z * z * z, z5 = z3 * z * z, z7 = z5 * z * z, z9 = z7 * z * z;
  const double g1 = (z3 + z) / 4, g2 = (5 * z5 + 16 * z3 + 3 * z) / 96,
               g3 = (3 * z7 + 19 * z5 + 17 * z3 - 15 * z) / 384,
               g4 = (79 * z9 + 776 * z7 + 1482 * z5 - 1920 * z3 - 945 * z) / 92160;
  return z + g1 / degrees + g2 / (degrees * degrees) + g3 / (degrees * degrees * degrees) +
         g4 / (degrees * degrees * degrees * degrees);
}

}  // namespace engine::train
