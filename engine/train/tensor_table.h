// TensorTable: every weight of the whole model, on all ranks in the same order, whoever holds it.
//
// What is computed per weight (gradient norms, exact bounds, the digest) is laid out by this table, so it does not
// depend on which rank holds which expert.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/parallel_groups.h"
#include "engine/nn/parameters.h"

namespace engine::train {

class TensorTable {
 public:
  struct Entry {
    std::string name;
    int64_t elements = 0;
    int64_t first_block = 0;         // number of its first kParameterBlock elements in the model
    nn::Parameter* local = nullptr;  // null: an expert of another rank
  };

  // Collective over groups.ep. Entries are sorted by name.
  TensorTable(nn::ParameterStore& store, comm::ParallelGroups& groups);

  const std::vector<Entry>& entries() const { return entries_; }
  int64_t num_blocks() const { return num_blocks_; }
  int64_t num_elements() const;

 private:
  std::vector<Entry> entries_;
  int64_t num_blocks_ = 0;
};

}  // namespace engine::train
