// One hash of all weights that does not depend on who holds them.
#pragma once

#include "comm/group.h"
#include "engine/core/hash.h"
#include "engine/nn/parameters.h"

namespace engine::checkpoint {

// XXH3-128 of a weight: each block of 4,096 elements hashed under a key of (name, number of the block), the hashes
// added mod 2^64. The sum may be taken over any parts cut at block boundaries.
Hash128 hash_weight(const nn::Parameter& parameter);

// Over the whole model: dense weights once, the experts of every rank of ep. Collective, the same on every rank.
Hash128 hash_weights(const nn::ParameterStore& store, comm::Group& ep);

}  // namespace engine::checkpoint
