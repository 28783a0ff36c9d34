#include "engine/train/sample_order.h"

#include <algorithm>

#include "engine/core/error.h"

namespace engine::train {

int64_t SampleOrder::sample(int64_t place) const {
  for (const Range& range : excluded_) {
    if (place < range.begin) break;
    place += range.end - range.begin;
  }
  return place;
}

std::vector<SampleOrder::Range> SampleOrder::samples(int64_t place, int64_t count) const {
  std::vector<Range> ranges;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t number = sample(place + i);
    if (ranges.empty() || ranges.back().end != number) ranges.push_back({number, number});
    ++ranges.back().end;
  }
  return ranges;
}

void SampleOrder::exclude(const std::vector<Range>& ranges) {
  excluded_.insert(excluded_.end(), ranges.begin(), ranges.end());
  std::sort(excluded_.begin(), excluded_.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  std::vector<Range> merged;
  for (const Range& range : excluded_) {
    if (merged.empty() || range.begin > merged.back().end) {
      merged.push_back(range);
    } else {
      merged.back().end = std::max(merged.back().end, range.end);
    }
  }
  excluded_ = merged;
}

std::vector<double> SampleOrder::state() const {
  std::vector<double> state;
  for (const Range& range : excluded_) {
    state.push_back(static_cast<double>(range.begin));
    state.push_back(static_cast<double>(range.end));
  }
  return state;
}

void SampleOrder::set_state(const std::vector<double>& state) {
  excluded_.clear();
  for (size_t i = 0; i + 1 < state.size(); i += 2) {
    const Range range{static_cast<int64_t>(state[i]), static_cast<int64_t>(state[i + 1])};
    const bool follows = excluded_.empty() || range.begin > excluded_.back().end;
    if (range.begin < 0 || range.end <= range.begin || !follows) {
      throw Error(ExitCode::checkpoint, str("the excluded samples ", range.begin, " to ", range.end, " are no range"));
    }
    excluded_.push_back(range);
  }
}

std::string ranges_text(const std::vector<SampleOrder::Range>& ranges) {
  std::string text;
  for (const SampleOrder::Range& range : ranges) {
    text += str(text.empty() ? "" : ", ", range.begin, " to ", range.end - 1);
  }
  return text;
}

}  // namespace engine::train
