#include "engine/checkpoint/saver.h"

#include <sys/resource.h>
#include <unistd.h>

#include <utility>

#include "engine/core/error.h"
#include "engine/core/profiler.h"

namespace engine::checkpoint {
namespace {

// Training comes first wherever both want a processor; when training waits for the save, it gets all of it.
void lower_priority() {
  setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), 5);  // of this thread; refused, it is only slower
}

}  // namespace

Saver::Saver(comm::ParallelGroups& groups) : groups_(groups), own_(groups.world->split(0, groups.world->rank())) {
  own_->set_name("saves");
}

void Saver::prepare(const SaveRequest& request) {
  if (snapshot_) return;
  snapshot_.emplace(*request.store, request.moments, groups_);
}

void Saver::begin(const std::string& directory, SaveRequest request) {
  ENSURE(!thread_.joinable(), "a save is under way already");
  prepare(request);
  begun_ = monotonic_seconds();
  snapshot_->take();
  stalled_seconds_ = monotonic_seconds() - begun_;
  ++attempts_;
  outcome_ = {};
  outcome_.step = request.state.step;
  outcome_.path = directory + "/" + checkpoint_name(request.state.step);
  ended_.store(false, std::memory_order_relaxed);
  thread_ = std::thread([this, directory, request = std::move(request)] { write(directory, request); });
}

void Saver::write(const std::string& directory, const SaveRequest& request) {
  lower_priority();
  try {
    SavedCheckpoint saved = write_checkpoint(directory, *snapshot_, request, hashes_, attempts_, *own_);
    hashes_ = std::move(saved.hashes);
    outcome_.warning = std::move(saved.warning);
  } catch (const std::exception& error) {
    outcome_.error = error.what();
  }
  outcome_.seconds = monotonic_seconds() - begun_;
  ended_.store(true, std::memory_order_release);
}

void Saver::join() {
  if (thread_.joinable()) thread_.join();
}

std::optional<Saver::Outcome> Saver::finished() {
  if (!thread_.joinable() || !ended_.load(std::memory_order_acquire)) return {};
  return wait();
}

std::optional<Saver::Outcome> Saver::wait() {
  if (!thread_.joinable()) return {};
  join();
  return outcome_;
}

}  // namespace engine::checkpoint
