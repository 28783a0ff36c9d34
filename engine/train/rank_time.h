// Where this rank's time went since the beginning of the run, as far as experts are concerned.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/model/model.h"

namespace engine::train {

struct RankTime {
  int64_t bytes_sent = 0;
  double expert_seconds = 0, exchange_seconds = 0, wait_seconds = 0;
};

inline RankTime rank_time(model::Model& model, const comm::Group& ep) {
  RankTime time{.wait_seconds = ep.waited_seconds()};
  for (moe::MoeLayer* layer : model.moe_layers()) time.bytes_sent += layer->bytes_sent();
  for (const Profiler::Phase& phase : model.profiler().phases()) {
    if (std::strncmp(phase.name, "experts ", 8) == 0) time.expert_seconds += phase.seconds;
    if (std::strcmp(phase.name, "dispatch") == 0) time.exchange_seconds += phase.seconds;
  }
  return time;
}

// What was spent between two looks.
inline RankTime operator-(const RankTime& later, const RankTime& earlier) {
  return {later.bytes_sent - earlier.bytes_sent, later.expert_seconds - earlier.expert_seconds,
          later.exchange_seconds - earlier.exchange_seconds, later.wait_seconds - earlier.wait_seconds};
}

}  // namespace engine::train
