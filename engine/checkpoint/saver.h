// Saving while training goes on: the state is copied between two steps, and a thread of low priority writes it.
//
// One save is under way at most. Its collectives run in a group of their own, so they do not mix with training's.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/save.h"

namespace engine::checkpoint {

class Saver {
 public:
  // How a save ended: durable, or why not. The same on every rank, except for the times.
  struct Outcome {
    int64_t step = 0;
    std::string path, error, warning;
    double seconds = 0;  // from begin() to durable and retention done
    bool durable() const { return error.empty(); }
  };

  // Collective over groups.world.
  explicit Saver(comm::ParallelGroups& groups);
  ~Saver() { join(); }
  Saver(const Saver&) = delete;

  // Collective. Takes the memory for the copy; `request` names what will be saved, whatever its step.
  void prepare(const SaveRequest& request);
  // Collective. Copies the state and returns while it is written. No save may be under way or unreported.
  void begin(const std::string& directory, SaveRequest request);
  // The save that has ended since the last call, if one has.
  std::optional<Outcome> finished();
  // Waits for the save that is under way; nothing if none was begun since the last outcome.
  std::optional<Outcome> wait();

  // The next checkpoint is compared with nothing: the weights are no longer what training made of the last one.
  void forget_last() { hashes_.clear(); }
  // Collective, while no save is under way. What is to be saved lies elsewhere from now on.
  void renew(const SaveRequest& request) {
    snapshot_.reset();
    forget_last();
    prepare(request);
  }
  int64_t snapshot_bytes() const { return snapshot_ ? snapshot_->bytes() : 0; }
  double stalled_seconds() const { return stalled_seconds_; }  // of the last begin(), copying

 private:
  void write(const std::string& directory, const SaveRequest& request);
  void join();

  comm::ParallelGroups& groups_;
  std::unique_ptr<comm::Group> own_;
  std::optional<Snapshot> snapshot_;
  std::map<std::string, std::string> hashes_;  // of the last durable checkpoint's weights
  int64_t attempts_ = 0;
  double begun_ = 0, stalled_seconds_ = 0;
  std::thread thread_;
  std::atomic<bool> ended_{false};
  Outcome outcome_;  // the thread's until ended_
};

}  // namespace engine::checkpoint
