// What pure chance makes of expert load: the measure that an imbalance has to exceed before it means anything.
//
// Where each of T tokens takes K different experts of E at random, independently of the others, the tokens of one
// expert are binomial(T, p), p = K / E, whatever the dependence between experts. Over m experts (of all layers looked
// at) a count leaves [low, high] with a probability of at most `risk` in all, if each tail has at most risk / (2 m)
// (Bonferroni). Real tokens are alike within a text, so real routers scatter more: the floor is a lower bound.
#pragma once

#include <cstdint>

namespace engine::train {

struct Routing {
  int64_t tokens = 0, experts = 0, slots = 0;                                                 // T, E, K
  double share() const { return static_cast<double>(slots) / static_cast<double>(experts); }  // p
  double mean() const { return static_cast<double>(tokens) * share(); }                       // tokens of an expert
};

// P(X >= count) and P(X <= count) of X binomial(tokens, share).
double binomial_upper_tail(int64_t tokens, double share, int64_t count);
double binomial_lower_tail(int64_t tokens, double share, int64_t count);

struct CountRange {
  int64_t low = 0, high = 0;
};
// The counts of one expert that are no surprise among `comparisons` experts.
CountRange chance_counts(const Routing& routing, int64_t comparisons, double risk);

// The coefficient of variation over the experts of a layer, sqrt(sum_e (n_e / mean - 1)^2 / E): its root mean square by
// chance, sqrt((1 - p) / mean), and what it exceeds with a probability of at most risk / layers. The sum over experts
// is (1 - p) / mean * E / (E - 1) times a chi-square variable of k = E - 1 degrees, which exceeds k + 2 sqrt(k x) + 2 x
// with a probability of at most exp(-x) (Laurent and Massart 2000).
double chance_variation(const Routing& routing);
double chance_variation_limit(const Routing& routing, int64_t layers, double risk);

// Experts without a token, expected: E (1 - p)^T.
double chance_dead(const Routing& routing);

// Share of choices without a place, expected, where an expert takes at most `capacity` of a granule's tokens:
// sum_{n > capacity} (n - capacity) P(n) / mean of the granule's routing.
double chance_dropped(const Routing& granule, int64_t capacity);

}  // namespace engine::train
