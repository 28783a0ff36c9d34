// expert_trace.bin: which experts each token of chosen steps took, for replay (`switchyard experts simulate`). Written
// in training (log.expert_trace_steps) or afterwards (`switchyard experts RUN --trace`).
//
//   8 bytes          "SWYTRC1\n"
//   u32              bytes of the header that follows
//   header           JSON: experts, slots, seq_len, sequences (of a step), granules, ranks, ep_size, capacity_factor
//                    (0: none), layers (the numbers of the MoE layers), sources (names)
// and for each traced step, all of the same size, numbers in the byte order of the machine:
//   i64              step (from 1)
//   f64 f64 f64 i64  seconds of the step; seconds in experts and in dispatch and combine, rows sent in bytes: sums
//                    over ranks
//   u16[sequences]   source of each sequence
//   u16[layers][sequences * seq_len][slots]   experts as the router chose them, before drops, tokens in the order of
//                    the batch whatever the layout; 65535: not routed
//   u64              XXH3 of the record before it
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/config/config.h"

namespace engine::train {

struct TraceHeader {
  int64_t experts = 0, slots = 0, seq_len = 0, sequences = 0, granules = 1, ranks = 1, ep_size = 1;
  double capacity_factor = 0;
  std::vector<int64_t> layers{};
  std::vector<std::string> sources{};

  int64_t tokens() const { return sequences * seq_len; }
  int64_t record_bytes() const;
  std::string bytes() const;  // all that stands before the first record
};

struct TraceStep {
  int64_t step = 0;
  double seconds = 0, expert_seconds = 0, exchange_seconds = 0;
  int64_t bytes_sent = 0;
  std::vector<uint16_t> sources{};      // [sequences]
  std::vector<uint16_t> choices_LTK{};  // [layers][tokens][slots]
};
inline constexpr uint16_t kNotRouted = 65535;

std::string trace_record(const TraceStep& step);

struct ExpertTrace {
  TraceHeader header;
  std::vector<TraceStep> steps;
};
// Throws Error(data) naming what is damaged; a last record that a killed run did not finish is passed over.
ExpertTrace read_trace(const std::string& path);

// Gets the file ready for steps after `step`: keeps the records up to it if the header is this one, else begins anew.
void begin_trace(const std::string& path, const TraceHeader& header, int64_t step);
// False: the file cannot be written.
bool append_trace(const std::string& path, const TraceStep& step);

}  // namespace engine::train
