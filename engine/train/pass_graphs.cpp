#include "engine/train/pass_graphs.h"

namespace engine::train {

PassGraphs::PassGraphs(const Config& config, Device device, int ranks)
    : apply_(device == Device::cuda && ranks == 1 && config.model.router.jitter == 0 &&
             (config.model.num_moe_layers() == 0 || config.model.router.capacity_factor)) {}

void PassGraphs::run(int64_t index, const Key& key, const std::function<void()>& queue) {
  if (!apply_) return queue();
  while (std::ssize(entries_) <= index) entries_.emplace_back();
  Entry& entry = entries_[static_cast<size_t>(index)];
  const bool same = entry.key == key && entry.memory_changes == device_memory_changes();
  if (!same) {  // memory it needs may come only now, and choices of algorithms are made
    queue();
    entry.key = key, entry.memory_changes = device_memory_changes();
    return entry.graph.forget();
  }
  if (!entry.graph.recorded()) entry.graph.record(queue);
  entry.graph.launch();
  ++launches_;
}

}  // namespace engine::train
