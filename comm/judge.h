// Judge: tells from what ranks were last seen doing whether one of them has died or hangs.
//
// It knows no transport: somebody tells it what each rank does, and asks it several times a second for its verdict.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/core/activity.h"

namespace comm {

// What a rank was doing at one moment; small and flat, for sending.
struct Sighting {
  uint64_t progress = 0;
  int64_t step = 0, layer = -1, number = 0;
  bool in_step = false;
  char phase[40] = "", collective[24] = "", group[16] = "";

  static Sighting of(const engine::Activity& activity);
  bool waits() const { return collective[0] != '\0'; }
};

struct WatchLimits {
  double seconds = 10;      // without a sign of life, or in a step without progress
  double step_factor = 5;   // or so many steps, if that is longer
  double first_step = 600;  // without progress while no step has ended yet
  double suspended = 2;     // a judge not asked for so long was suspended, and so were others: all get their time anew
};

class Judge {
 public:
  Judge(std::vector<std::string> hosts, const WatchLimits& limits, double now);

  // `rank` was seen at this time.
  void saw(int rank, const Sighting& sighting, double now);
  // The process of a rank is gone.
  void died(int rank) { ranks_[static_cast<size_t>(rank)].dead = true; }
  // A rank leaves by itself, and says why.
  void left(int rank) { ranks_[static_cast<size_t>(rank)].gone = true; }

  // What is wrong, as the text of an error; empty as long as all is well.
  std::string verdict(double now);

 private:
  struct Rank {
    std::string host;
    Sighting last;
    double seen = 0, progressed = 0;  // when it was last seen, and last seen with progress
    bool dead = false, gone = false;
  };
  double limit() const;
  void time_step(int64_t step, double now);
  std::string who(size_t rank) const;
  std::string waiting(size_t but) const;
  std::string all_wait(double now) const;

  WatchLimits limits_;
  std::vector<Rank> ranks_;
  double asked_;
  std::vector<double> step_seconds_;  // of the last steps
  int64_t step_ = 0;
  double step_begun_ = 0;
};

}  // namespace comm
