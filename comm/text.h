// Texts between ranks, for start-up and errors.
#pragma once

#include <string>
#include <vector>

#include "comm/group.h"

namespace comm {

// The text of every rank, by rank; collective.
std::vector<std::string> all_gather_text(Group& group, const std::string& text);

}  // namespace comm
