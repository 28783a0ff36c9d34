#include "engine/core/activity.h"

namespace engine {
namespace {

thread_local Activity own;
thread_local Activity* current = nullptr;

}  // namespace

Activity& activity() {
  return current != nullptr ? *current : own;
}

void set_activity(Activity& of_rank) {
  current = &of_rank;
}

}  // namespace engine
