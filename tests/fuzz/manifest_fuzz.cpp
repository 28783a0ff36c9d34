// manifest.json and COMMIT; the moments of every weight of one that is taken tile it.
#include "engine/checkpoint/manifest.h"
#include "tests/fuzz/fuzz_target.h"

FUZZ_TARGET(bytes) {
  using namespace engine::checkpoint;
  try {
    check_commit(bytes, "{}", "fuzz");
  } catch (const engine::Error&) {
  }
  const Manifest manifest = parse_manifest(bytes, "manifest.json");
  for (const auto& [name, weight] : manifest.weights) {
    int64_t elements = 0;
    for (const Manifest::Moments& range : manifest.moments.at(name)) elements += range.count;
    if (elements != weight.elements || !manifest.files.contains(weight.file)) __builtin_trap();
  }
}
