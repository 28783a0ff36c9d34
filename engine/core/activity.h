// What a rank is doing, for whoever watches over it: written by the rank's main thread, read by any.
#pragma once

#include <atomic>
#include <cstdint>

namespace engine {

struct Activity {
  std::atomic<const char*> phase{"start"};       // a literal, as all texts here
  std::atomic<const char*> collective{nullptr};  // the rank waits for others in it; null: it works
  std::atomic<const char*> group{""};            // whose collective
  std::atomic<int64_t> number{0};                // of the collective in its group
  std::atomic<int64_t> step{0};                  // the last one begun, from 1
  std::atomic<bool> in_step{false};              // under way: something has to happen every few seconds
  std::atomic<double> step_seconds{0};           // median of the last steps; 0: not known yet
  std::atomic<int64_t> layer{-1};                // -1: none
  std::atomic<uint64_t> progress{0};             // one more whenever something else begins

  void enter(const char* new_phase) {
    phase.store(new_phase, std::memory_order_relaxed);
    advance();
  }
  void enter_layer(int64_t new_layer) {
    layer.store(new_layer, std::memory_order_relaxed);
    advance();
  }
  void advance() { progress.store(progress.load(std::memory_order_relaxed) + 1, std::memory_order_release); }
};

// Of the rank whose main thread calls; other threads have one nobody reads.
Activity& activity();
// The calling thread is a rank's main thread from now on.
void set_activity(Activity& of_rank);

}  // namespace engine
