// Checkpoints of steps that a run goes back from: kept, but under a name that no run goes on from.
#include <algorithm>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/file_system.h"
#include "engine/checkpoint/tags.h"

namespace engine::checkpoint {
namespace {

// abandoned-step-00000300, or with .2, .3, ... where that is taken.
std::string free_name(const std::vector<std::string>& taken, const std::string& step) {
  std::string name = "abandoned-" + step;
  for (int number = 2; std::find(taken.begin(), taken.end(), name) != taken.end(); ++number) {
    name = "abandoned-" + step + "." + std::to_string(number);
  }
  return name;
}

}  // namespace

std::vector<std::string> set_aside_after(const std::string& directory, int64_t step) {
  std::vector<std::string> moved;
  for (const std::string& name : list_checkpoints(directory)) {
    if (name <= checkpoint_name(step)) continue;
    const Directory parent = Directory::open(directory);
    const std::string to = free_name(parent.names(), name);
    parent.rename(name, to);
    parent.sync();
    move_tags(directory, name, to);
    moved.push_back(to);
  }
  return moved;
}

}  // namespace engine::checkpoint
