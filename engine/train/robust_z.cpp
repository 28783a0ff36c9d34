#include "engine/train/robust_z.h"

#include <algorithm>
#include <cmath>

namespace engine::train {
namespace {

// Of values that may be reordered; the mean of the two in the middle if their number is even.
double median(std::vector<double>& values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return 0.5 * (*middle + *std::max_element(values.begin(), middle));
}

}  // namespace

RobustZ::RobustZ() {
  values_.reserve(kWindow);
  sorted_.reserve(kWindow);
}

std::optional<double> RobustZ::add(double x) {
  const std::optional<double> z = score(x);
  if (values_.size() == kWindow) values_.erase(values_.begin());
  values_.push_back(x);
  return z;
}

std::optional<double> RobustZ::score(double x) {
  if (values_.size() < kFewest) return {};
  sorted_.assign(values_.begin(), values_.end());
  const double center = median(sorted_);
  for (double& value : sorted_) value = std::abs(value - center);
  const double deviation = 1.4826 * median(sorted_);
  if (!(deviation > 0)) return {};
  return (x - center) / deviation;
}

void RobustZ::set_history(const std::vector<double>& history) {
  const size_t kept = std::min(history.size(), kWindow);
  values_.assign(history.end() - static_cast<std::ptrdiff_t>(kept), history.end());
}

}  // namespace engine::train
