// Which sample of the text stands at each place of a run: its number, except that some were excluded.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace engine::train {

class SampleOrder {
 public:
  struct Range {
    int64_t begin = 0, end = 0;  // samples
    bool operator==(const Range&) const = default;
  };

  // The sample at place n: the n-th that is not excluded.
  int64_t sample(int64_t place) const;
  // The samples at places [place, place + count), in order.
  std::vector<Range> samples(int64_t place, int64_t count) const;
  void exclude(const std::vector<Range>& ranges);

  const std::vector<Range>& excluded() const { return excluded_; }  // sorted, none touches the next

  // Part of a checkpoint: begin and end of each range.
  std::vector<double> state() const;
  void set_state(const std::vector<double>& state);

 private:
  std::vector<Range> excluded_;
};

// "640 to 703, 768 to 831"
std::string ranges_text(const std::vector<SampleOrder::Range>& ranges);

}  // namespace engine::train
