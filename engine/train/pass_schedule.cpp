#include "engine/train/pass_schedule.h"

#include <algorithm>

#include "engine/core/error.h"
#include "engine/data/document_mask.h"

namespace engine::train {
namespace {

int64_t ceil_divide(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

PassSchedule::PassSchedule(const Config& config, int rank, int ranks, int ep_size)
    : sequences_per_step_(config.sequences_per_step()),
      sequences_per_granule_(config.sequences_per_granule()),
      seq_len_(config.train.seq_len),
      document_mask_(config.train.document_mask),
      granules_per_step_(config.train.granules) {
  // the granules g with floor(g * ranks / G) == r
  const auto granules_of = [&](int r) {
    return GranuleRange{ceil_divide(r * granules_per_step_, ranks), ceil_divide((r + 1) * granules_per_step_, ranks)};
  };
  granules_ = granules_of(rank);
  for (int r = 0; r < ep_size; ++r) granules_by_rank_.push_back(granules_of(rank / ep_size * ep_size + r));
  ep_granules_.resize(granules_by_rank_.size());
  const int64_t micro_batch = config.sequences_per_pass();
  const int64_t most_granules = ceil_divide(granules_per_step_, ranks);
  if (micro_batch >= sequences_per_granule_) {
    granules_per_pass_ = std::min(micro_batch / sequences_per_granule_, most_granules);
    num_passes_ = ceil_divide(most_granules, granules_per_pass_);
  } else {
    parts_per_granule_ = sequences_per_granule_ / micro_batch;
    num_passes_ = most_granules * parts_per_granule_;
  }
  max_sequences_ = granules_per_pass_ * sequences_per_granule_ / parts_per_granule_;
  const size_t rows = static_cast<size_t>(max_rows());
  sample_.resize(static_cast<size_t>(seq_len_ + 1));
  tokens_.resize(rows), targets_.resize(rows), positions_.resize(rows), document_starts_.resize(rows);
  offsets_.resize(static_cast<size_t>(granules_per_pass_ + 1));
  granule_numbers_.resize(static_cast<size_t>(granules_per_pass_));
  granule_counted_.assign(static_cast<size_t>(granules_per_pass_), sequences_per_granule_ * seq_len_);
}

PassSchedule::Batch PassSchedule::load(int64_t index, int64_t step, int64_t first_sample, const SampleReader& read) {
  const int64_t granules_before = index / parts_per_granule_ * granules_per_pass_;
  const auto granules_in_pass = [&](const GranuleRange& of_rank) {
    return std::clamp<int64_t>(of_rank.end - of_rank.begin - granules_before, 0, granules_per_pass_);
  };
  const int64_t first_granule = granules_.begin + granules_before, granules = granules_in_pass(granules_);
  std::transform(granules_by_rank_.begin(), granules_by_rank_.end(), ep_granules_.begin(), granules_in_pass);
  const int64_t part = index % parts_per_granule_;
  const int64_t sequences = granules * sequences_per_granule_ / parts_per_granule_;
  const int64_t first_sequence =
      first_granule * sequences_per_granule_ + part * (sequences_per_granule_ / parts_per_granule_);
  for (int64_t b = 0; b < sequences; ++b) {
    read(first_sample + first_sequence + b, sample_.data());
    const int64_t row = b * seq_len_;
    std::copy(sample_.begin(), sample_.end() - 1, tokens_.begin() + row);
    std::copy(sample_.begin() + 1, sample_.end(), targets_.begin() + row);
    data::document_mask(sample_.data(), seq_len_, document_mask_, positions_.data() + row,
                        document_starts_.data() + row);
  }
  for (int64_t g = 0; g <= granules; ++g) {
    offsets_[static_cast<size_t>(g)] = granules == 0 ? 0 : g * sequences / granules * seq_len_;
    if (g < granules) granule_numbers_[static_cast<size_t>(g)] = first_granule + g;
  }
  Batch batch;
  batch.pass = {.num_sequences = sequences,
                .seq_len = seq_len_,
                .training = true,
                .positions = positions_.data(),
                .document_starts = document_mask_ ? document_starts_.data() : nullptr,
                .granules = {.offsets = offsets_.data(),
                             .count = granules,
                             .ends = part + 1 == parts_per_granule_,
                             .begins = part == 0},
                .granule_numbers = granule_numbers_.data(),
                .granule_counted = granule_counted_.data(),
                .ep_granules = ep_granules_,
                .granules_per_step = granules_per_step_,
                .sequences_per_granule = sequences_per_granule_,
                .first_row = first_sequence * seq_len_,
                .step = step,
                .loss_scale = 1.0 / static_cast<double>(sequences_per_step_ * seq_len_)};
  batch.tokens_T = ConstTensor(tokens_.data(), DType::i32, {sequences * seq_len_});
  batch.targets_T = ConstTensor(targets_.data(), DType::i32, {sequences * seq_len_});
  return batch;
}

}  // namespace engine::train
