// Rules between keys, and defaults that follow from others.
#pragma once

#include <cstdint>

#include "engine/config/config.h"
#include "engine/config/json_reader.h"
#include "engine/config/problems.h"

namespace engine {

// Fills in what follows from other keys: vocab_size from the tokenizer.
void resolve(Config& config);

// Adds a problem for every rule that is broken, at the place of the key it names.
void check_config(const Config& config, const JsonValue& root, Problems& problems);

// Rules that need the number of ranks; throws Error(usage). Returns the ep_size: as configured, or for "auto" the
// largest divisor of the ranks that does not exceed the experts.
int64_t check_ranks(const Config& config, int ranks);

}  // namespace engine
