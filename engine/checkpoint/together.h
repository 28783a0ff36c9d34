// A stage in which every rank does its part.
#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <vector>

#include "comm/text.h"
#include "engine/core/error.h"

namespace engine::checkpoint {

// Runs this rank's part; if one fails anywhere, every rank throws the first failure with `what` before it. Collective.
template <class Part>
void together(comm::Group& world, const std::string& what, Part part) {
  std::string error;
  try {
    part();
  } catch (const std::exception& e) {
    error = e.what();
  }
  const std::vector<std::string> errors = comm::all_gather_text(world, error);
  for (size_t rank = 0; rank < errors.size(); ++rank) {
    if (errors[rank].empty()) continue;
    throw Error(ExitCode::environment,
                errors.size() == 1 ? str(what, errors[rank]) : str("rank ", rank, ": ", what, errors[rank]));
  }
}

}  // namespace engine::checkpoint
