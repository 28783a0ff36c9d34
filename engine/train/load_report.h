// How evenly experts are used: the numbers behind `switchyard experts` and the step line, each beside its floor.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/train/load_floor.h"
#include "engine/train/load_log.h"

namespace engine::train {

// The probability that a report shows any layer as beyond chance where there is nothing but chance.
inline constexpr double kReportRisk = 0.005;

// Over a window with c_e choices of expert e of E and T = sum of c_e: r_e = c_e * E / T.
struct LayerLoad {
  double max_over_mean = 0, min_over_mean = 0;  // largest and smallest r_e
  double violation = 0;                         // MaxVio: largest r_e - 1
  double mean_violation = 0;                    // mean of |r_e - 1|
  double variation = 0;                         // standard deviation of r_e
  double entropy = 0;                           // even use: exp(entropy of c_e / T) / E, 1 when even
  int64_t dead = 0;                             // experts without a token
  int64_t fullest = 0, emptiest = 0;            // experts
  // What chance gives for as many tokens (load_floor.h): limits of r_e, of the variation and of even use that are
  // exceeded with a probability of kReportRisk over all layers of the report, and the variation to be expected.
  double max_by_chance = 0, min_by_chance = 0, variation_by_chance = 0, variation_expected = 0, entropy_by_chance = 0;
  double dead_by_chance = 0;
  bool beyond_chance = false;
};
// `slots` choices a token, in a report on `layers` layers.
LayerLoad measure_load(std::span<const int64_t> tokens_per_expert, int64_t slots, int64_t layers);

struct LoadSummary {
  double worst_load = 0;  // largest max/mean over layers
  int64_t worst_layer = 0;
  double dropped_share = 0;  // of all choices
};
LoadSummary summarize(const LoadWindow& window);

// How much the expert of a choice tells about the row it comes from (a data source, an evaluation set), in bits:
// sum over e, s of p(e,s) log2(p(e,s) / (p(e) p(s))). By chance, with N choices, 2 N ln 2 times it is a chi-square
// variable of (E - 1)(S - 1) degrees.
struct Specialisation {
  double bits = 0;
  double of = 0;         // the entropy of the rows: what there is to tell
  double by_chance = 0;  // exceeded with a probability of kReportRisk / layers
};
Specialisation measure_specialisation(const std::vector<std::vector<int64_t>>& counts_SE, int64_t layers);

// How many times as often a choice of a row goes to an expert as a choice of all rows together does: p(e|s) / p(e). 0
// where an expert has no choice, or a row none. Same shape as counts_SE.
std::vector<std::vector<double>> relative_use(const std::vector<std::vector<int64_t>>& counts_SE);

// The value below which a share of the values lies, by linear interpolation.
double percentile(std::vector<double> values, double share);

}  // namespace engine::train
