// What ranks have to agree on before they work together.
#pragma once

#include <string>
#include <vector>

#include "comm/group.h"

namespace comm {

// One thing that every rank has to have alike.
struct Fact {
  std::string name;   // "the program"
  std::string value;  // compared
  std::string shown;  // in the message, where the value is long
};

// Collective. Throws Error(environment), alike on every rank, naming the first rank that differs from rank 0, its host
// and both values.
void shake_hands(Group& world, const std::vector<Fact>& facts);

}  // namespace comm
