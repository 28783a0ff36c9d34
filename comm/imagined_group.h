// A group of ranks that are not there: for building what only asks for rank and size.
#pragma once

#include <memory>

#include "comm/group.h"

namespace comm {

// Its collectives are bugs.
std::unique_ptr<Group> make_imagined_group(int rank, int size);

}  // namespace comm
