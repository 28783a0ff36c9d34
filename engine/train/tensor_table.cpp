#include "engine/train/tensor_table.h"

#include <algorithm>
#include <sstream>

#include "comm/text.h"
#include "engine/core/error.h"

namespace engine::train {

TensorTable::TensorTable(nn::ParameterStore& store, comm::ParallelGroups& groups) {
  std::ostringstream experts;
  for (nn::Parameter& parameter : store.all()) {
    entries_.push_back({.name = parameter.spec.name, .elements = parameter.elements, .local = &parameter});
    if (parameter.spec.is_expert) experts << parameter.spec.name << ' ' << parameter.elements << '\n';
  }
  for (const std::string& list : comm::all_gather_text(*groups.ep, experts.str())) {
    std::istringstream lines(list);
    std::string name;
    int64_t elements = 0;
    while (lines >> name >> elements) {
      if (store.find(name) == nullptr) entries_.push_back({.name = name, .elements = elements});
    }
  }
  std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) { return a.name < b.name; });
  for (size_t i = 0; i < entries_.size(); ++i) {
    ENSURE(i == 0 || entries_[i - 1].name != entries_[i].name, "two ranks of ep hold ", entries_[i].name);
    entries_[i].first_block = num_blocks_;
    num_blocks_ += (entries_[i].elements + nn::kParameterBlock - 1) / nn::kParameterBlock;
  }
}

int64_t TensorTable::num_elements() const {
  int64_t total = 0;
  for (const Entry& entry : entries_) total += entry.elements;
  return total;
}

}  // namespace engine::train
