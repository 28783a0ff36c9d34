#include "engine/train/gradient_grid.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "engine/core/error.h"

namespace engine::train {
namespace {

constexpr int64_t kFirstNotFinite = 0x7f800000;

int ceil_log2(int64_t n) {
  return std::bit_width(static_cast<uint64_t>(n) - 1);
}

// The smallest power of two that is at least the float with these bits.
double power_of_two_above(int64_t bits) {
  if (bits == 0) return 0;
  const double value = static_cast<double>(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  int exponent = 0;
  const double mantissa = std::frexp(value, &exponent);
  return std::ldexp(1.0, mantissa == 0.5 ? exponent - 1 : exponent);
}

}  // namespace

GradientGrid::GradientGrid(const TensorTable& table, int64_t granules)
    : table_(table),
      granules_(granules),
      headroom_bits_(21 - ceil_log2(granules)),
      bounds_(table.entries().size(), 0.0),
      largest_bits_(table.entries().size(), 0) {
  ENSURE(granules <= 2048, "train.granules is ", granules, " but at most 2048 can be added exactly");
}

void GradientGrid::begin_step() {
  // A weight without a gradient so far (an expert nobody chose yet) takes the largest bound of the others.
  const double largest = *std::max_element(bounds_.begin(), bounds_.end());
  for (size_t i = 0; i < bounds_.size(); ++i) {
    nn::Parameter* parameter = table_.entries()[i].local;
    if (parameter == nullptr) continue;
    const double bound = bounds_[i] > 0 ? bounds_[i] : largest;
    const double unit = std::ldexp(bound, headroom_bits_ + ceil_log2(granules_) - 52);
    parameter->gradient.grid = parameter->tied.grid = 1.5 * std::ldexp(unit, 52);
    parameter->max_bits = 0;
  }
}

bool GradientGrid::end_step(comm::Group& world) {
  if (granules_ == 1) return true;  // nothing is added
  for (size_t i = 0; i < largest_bits_.size(); ++i) {
    const nn::Parameter* parameter = table_.entries()[i].local;
    largest_bits_[i] = parameter == nullptr ? 0 : static_cast<int64_t>(parameter->max_bits);
  }
  world.all_reduce_max(Tensor(largest_bits_.data(), DType::i64, {static_cast<int64_t>(largest_bits_.size())})).wait();
  const double largest = *std::max_element(bounds_.begin(), bounds_.end());
  bool exact = true;
  for (size_t i = 0; i < bounds_.size(); ++i) {
    if (largest_bits_[i] >= kFirstNotFinite) {
      throw Error(ExitCode::numerical, str("the gradient of ", table_.entries()[i].name,
                                           " is not finite; the weights were not touched. Lower optim.lr, or resume "
                                           "from an earlier checkpoint"));
    }
    const double seen = power_of_two_above(largest_bits_[i]);
    const double bound = bounds_[i] > 0 ? bounds_[i] : largest;
    exact = exact && seen <= std::ldexp(bound, headroom_bits_);
    if (seen > 0) bounds_[i] = seen;
  }
  return exact;
}

void GradientGrid::set_bounds(std::vector<double> bounds) {
  if (bounds.size() != bounds_.size()) {
    throw Error(ExitCode::checkpoint, str("the checkpoint has ", bounds.size(), " gradient bounds but the model has ",
                                          bounds_.size(), " weights"));
  }
  bounds_ = std::move(bounds);
}

}  // namespace engine::train
