// PassGraphs: passes as CUDA graphs, where every step queues the same for a pass. A step of small kernels then takes
// the time of the kernels, not that of queueing them one by one.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>

#include "engine/config/config.h"
#include "engine/core/graph.h"
#include "engine/core/tensor.h"

namespace engine::train {

class PassGraphs {
 public:
  // On a GPU, with one rank; where experts have a capacity, or there are none, so that shapes do not follow from
  // choices; without jitter, whose noise is the step's.
  PassGraphs(const Config& config, Device device, int ranks);
  bool apply() const { return apply_; }

  // What a pass's work depends on beside its number, what lies in device memory, and addresses of that.
  using Key = std::array<int64_t, 3>;
  // Does what queue() does for pass number `index`: calls it, or launches what it queued in an earlier step.
  void run(int64_t index, const Key& key, const std::function<void()>& queue);
  // From now on calls it, as a profile of what it does needs.
  void stop() { apply_ = false; }
  int64_t launches() const { return launches_; }

 private:
  struct Entry {
    Graph graph;
    Key key{};
    int64_t memory_changes = -1;  // as they were when it was last called or recorded
  };
  bool apply_;
  std::deque<Entry> entries_;  // by pass
  int64_t launches_ = 0;
};

}  // namespace engine::train
