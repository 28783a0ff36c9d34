// Which checkpoints there are, and which stay.
#include <algorithm>
#include <set>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/file_system.h"
#include "engine/checkpoint/tags.h"
#include "engine/core/error.h"

namespace engine::checkpoint {

std::vector<std::string> list_checkpoints(const std::string& directory, Storage& storage) {
  std::vector<std::string> steps;
  for (const std::string& name : names_in(directory, storage)) {
    if (name.starts_with("step-") && name.size() == 13) steps.push_back(name);
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

std::vector<std::string> expendable_checkpoints(const std::string& directory, int64_t keep_last, Storage& storage) {
  std::set<std::string> tagged;
  try {
    for (const auto& [tag, step] : read_tags(directory, storage)) tagged.insert(step);
  } catch (const Error&) {
    return {};  // what may be wanted is not known: nothing goes
  }
  std::vector<std::string> steps = list_checkpoints(directory, storage);
  steps.erase(steps.begin(), steps.begin() + std::min<int64_t>(keep_last, static_cast<int64_t>(steps.size())));
  std::erase_if(steps, [&](const std::string& step) { return tagged.contains(step); });
  return steps;
}

void remove_checkpoints(const std::string& directory, const std::vector<std::string>& names, Storage& storage) {
  const Directory parent = Directory::open(directory, storage);
  for (const std::string& name : names) parent.rename(name, ".trash-" + name);
  if (!names.empty()) parent.sync();  // before a file of theirs goes
  for (const std::string& name : parent.names()) {
    if (name.starts_with(".trash-")) parent.remove_directory(name);
  }
}

}  // namespace engine::checkpoint
