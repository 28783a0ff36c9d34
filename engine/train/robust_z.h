// How unusual a value is beside the last ones: its distance from their median in robust standard deviations.
//
//   z = (x - median) / (1.4826 * median |x_i - median|)         over the last kWindow values, x not among them
//
// Median and median deviation, unlike mean and standard deviation, are not moved by the spikes they are to show;
// 1.4826 makes z that of a normal distribution (Hampel, 1974).
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

namespace engine::train {

class RobustZ {
 public:
  static constexpr size_t kWindow = 128, kFewest = 16;

  RobustZ();
  // The score of x, then x joins the window. Nothing before kFewest values, or while they are all the same.
  std::optional<double> add(double x);

  // The window, oldest first: part of a checkpoint.
  std::vector<double> history() const { return values_; }
  // Keeps the last kWindow of `history`.
  void set_history(const std::vector<double>& history);

 private:
  std::optional<double> score(double x);
  std::vector<double> values_, sorted_;
};

}  // namespace engine::train
