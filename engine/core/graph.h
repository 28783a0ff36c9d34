// Graph: what host code queues on the calling thread's stream, kept to be queued again at once without that code.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "engine/core/device.h"

struct CUgraphExec_st;

namespace engine {

class Graph {
 public:
  Graph() = default;
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph() { forget(); }

  // Keeps what `queue` queues, which does not run before launch(). `queue` may not wait for the device, nor take or
  // give back memory there; what it copies to the device is in every launch what it was then. What was kept before
  // goes.
  void record(const std::function<void()>& queue);
  bool recorded() const { return graph_ != nullptr; }
  void launch() const;
  void forget() noexcept;

 private:
  CUgraphExec_st* graph_ = nullptr;
  std::vector<void*> copied_;  // pinned memory that its copies to the device leave from
};

}  // namespace engine
