// What a plan says of memory beside what a trainer has taken.
#pragma once

#include <doctest/doctest.h>

#include "engine/train/memory_plan.h"

namespace test {

// Every category that is planned to the byte; scratch and lists are estimates.
inline void check_same_memory(const engine::train::MemoryUse& planned, const engine::train::MemoryUse& use) {
  CHECK(planned.weights == use.weights);
  CHECK(planned.packed == use.packed);
  CHECK(planned.gradients == use.gradients);
  CHECK(planned.sums == use.sums);
  CHECK(planned.moments == use.moments);
  CHECK(planned.activations == use.activations);
  CHECK(planned.expert_rows == use.expert_rows);
}

}  // namespace test
