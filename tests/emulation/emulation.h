// What tests of the emulated device set and read.
//
// Threads of a block are switched only where they wait, so a schedule decides what a missing barrier lets through;
// queued work runs as late as it legally may, so a missing wait shows. A kernel that gives the same bits under all
// of these depends on no order that CUDA leaves open. What is certainly wrong is a fault: from then on every call of
// the runtime returns cudaErrorLaunchFailure with the fault as its text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace emulation {

enum class Threads { forward, reverse, shuffled };  // order of the threads of a block, and of the blocks
enum class Streams { immediate, late, shuffled };  // at once; when waited for; when waited for, in a random legal order

struct Settings {
  Threads threads = Threads::forward;
  Streams streams = Streams::late;
  uint64_t seed = 1;
};
void set(const Settings& settings);
const Settings& settings();

// Whether every access to memory is checked: in the executables called *_checked.
bool checks_accesses();

// The faults since the last call. A program that ends with faults nobody has taken prints them and exits with 1.
std::vector<std::string> take_faults();

}  // namespace emulation
