// In which keys two configs differ.
#pragma once

#include <string>
#include <vector>

#include "engine/config/config.h"

namespace engine {

// "train.seq_len: 256 there, 512 here" for each key whose value differs, in the order of the field lists; a list or
// object that is only in one of them counts as its keys.
std::vector<std::string> config_differences(const Config& there, const Config& here);

}  // namespace engine
