// PassSchedule: which granules of a step this rank computes, in which passes, and the tokens of each pass.
//
// Granule g of G belongs to rank floor(g * ranks / G). A pass is whole granules or an equal part of one; every
// rank makes the same number of passes, a rank without work in a pass takes part with zero rows.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "engine/config/config.h"
#include "engine/nn/layer.h"

namespace engine::train {

// Writes the S + 1 tokens of a sample, a pure function of its number.
using SampleReader = std::function<void(int64_t sample, int32_t* tokens)>;

class PassSchedule {
 public:
  // Ranks of ep follow one another.
  PassSchedule(const Config& config, int rank, int ranks, int ep_size = 1);

  int64_t num_passes() const { return num_passes_; }
  int64_t max_rows() const { return max_sequences_ * seq_len_; }

  // What the model is given for one pass; valid until the next call of load().
  struct Batch {
    nn::Pass pass;
    ConstTensor tokens_T, targets_T;
  };
  // Pass number `index` of step `step` (from 0), whose samples begin at number `first_sample`.
  Batch load(int64_t index, int64_t step, int64_t first_sample, const SampleReader& read);

 private:
  int64_t sequences_per_step_, sequences_per_granule_, seq_len_;
  bool document_mask_;
  struct GranuleRange {
    int64_t begin, end;
  };
  int64_t granules_per_step_;
  GranuleRange granules_;                       // of this rank
  std::vector<GranuleRange> granules_by_rank_;  // of ep
  int64_t granules_per_pass_ = 1, parts_per_granule_ = 1;
  int64_t num_passes_ = 0, max_sequences_ = 0;
  std::vector<int32_t> sample_, tokens_, targets_, positions_, document_starts_;
  std::vector<int64_t> offsets_, granule_numbers_, granule_counted_, ep_granules_;
};

}  // namespace engine::train
