// What a run asks of the directory of its checkpoints before it spends an hour on the first.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/checkpoint/storage.h"

namespace engine::checkpoint {

// Makes the directory, removes what interrupted saves have left, tries to write, make durable, rename and remove a
// file, and asks for the room that keep_last + 1 checkpoints of `bytes` need beyond those that are there. Returns the
// names of what was removed; throws Error(environment) with the numbers.
std::vector<std::string> prepare_directory(const std::string& directory, int64_t bytes, int64_t keep_last,
                                           Storage& storage = system_storage());

}  // namespace engine::checkpoint
