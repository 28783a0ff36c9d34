// Whether one model is better than another on the same windows of text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/train/evaluate.h"

namespace engine::train {

// Of loss(a) - loss(b), nats per token: above zero a is the worse one.
struct LossDifference {
  double mean = 0, low = 0, high = 0;  // 95 % interval
  int64_t windows = 0;
  bool identical = false;     // every window has the same loss
  bool has_interval = false;  // false with fewer than two windows
  // "better", "worse" (a than b) or "no difference shown": the interval holds zero.
  std::string verdict() const;
};

// The results of both models on the same sets, one pair for each source; the difference over all of them.
//
// Windows that follow each other come from the same document and are alike, so the windows of a source are put into 4
// to 32 blocks of neighbours, whose sums are close to independent (batch means; Law and Carson 1979). With n_j tokens
// and the difference D_j in block j of B, m = sum D_j / sum n_j and
//   var m = B / (B - 1) x sum (D_j - m n_j)^2 / (sum n_j)^2;
// sources are weighted by their tokens, and the interval is Student's with Welch's degrees of freedom.
LossDifference difference_of(const std::vector<const EvalResult*>& a, const std::vector<const EvalResult*>& b);

// x with P(|t| < x) = 0.95 for Student's t with this many degrees of freedom, at least 1; within 0.2 %.
double student_quantile(double degrees);

}  // namespace engine::train
