// A config file; one that is taken has a canonical form that is taken, too, and stays as it is.
#include "engine/config/canonical.h"
#include "engine/config/parameter_count.h"
#include "engine/config/reader.h"
#include "tests/fuzz/fuzz_target.h"

FUZZ_TARGET(bytes) {
  const engine::Config config = engine::parse_config(bytes, "fuzz.json", {});
  engine::count_parameters(config.model);
  const std::string canonical = engine::canonical_json(config);
  if (engine::canonical_json(engine::parse_config(canonical, "canonical", {})) != canonical) __builtin_trap();
}
