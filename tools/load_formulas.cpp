// What every number of the expert-load report is; printed below each report.
#include "tools/experts_report.h"

namespace tools {

const std::vector<Formula>& load_formulas() {
  static const std::vector<Formula> kFormulas = {
      {"share", "r_e = c_e E / T: c_e choices of expert e of E, T = sum of c_e over the steps shown"},
      {"max/mean", "largest r_e"},
      {"MaxVio", "largest r_e - 1"},
      {"CV", "sqrt(sum_e (r_e - 1)^2 / E)"},
      {"even use", "exp(-sum_e s_e ln s_e) / E with s_e = c_e / T: 1 when even"},
      {"dead", "experts with c_e = 0"},
      {"drop",
       "choices without a place / T; by chance sum_{n > C} (n - C) P(n) / mean with n binomial, C the capacity"},
      {"chance",
       "what random routing exceeds with a probability of 0.005 over all layers together: quantiles of the binomial "
       "(tokens, K / E) with tails of 0.00125 / (E x layers) for max/mean; (1 - K / E) / mean x (k + 2 sqrt(k x) + 2 "
       "x) / "
       "k with k = E - 1, x = ln(layers / 0.0025) for CV^2; exp(-CV^2 / 2) for even use. Tokens of one text are alike, "
       "so "
       "real routers scatter more: it is a lower bound"},
      {"overload", "rows at the fullest rank / mean over ranks, in each step and layer"},
      {"of the mean", "rows of a rank over all steps and layers / mean over ranks"},
      {"waiting", "time in dispatch and combine until the last rank has come, measured; its share of the steps' time"},
      {"p50 to p95", "the value that so many percent of the layers do not exceed, interpolated linearly"},
      {"specialisation",
       "sum_{e,s} p(e,s) log2(p(e,s) / (p(e) p(s))): bits that the expert tells about the source or evaluation set, of "
       "-sum_s p(s) log2 p(s); by chance 2 N ln 2 times it is chi-square of (E - 1)(S - 1) degrees, N choices, S rows"},
      {"relative use", "p(e|s) / p(e): choices of expert e among those of the source / among all"},
      {"entropy", "mean over tokens of -sum_e p_e ln p_e of the router's softmax, nats; at most ln E"},
      {"first weight", "mean over tokens of the weight of the first choice"},
      {"aux loss", "mean over steps, before its coefficient; of the kind switch 1 when even"},
      {"z-loss", "mean over tokens of (ln sum_e exp logit_e)^2, before its coefficient"},
      {"verdict",
       "collapsed: a tenth of a layer's experts dead, or even use below 0.5; skewed: a dead or starved (r_e < 0.1) "
       "expert, 5 % of a step's time, or drops 2 % beyond chance; else balanced"},
  };
  return kFormulas;
}

}  // namespace tools
