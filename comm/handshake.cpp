#include "comm/handshake.h"

#include <unistd.h>

#include "comm/text.h"
#include "engine/core/error.h"

namespace comm {

void shake_hands(Group& world, const std::vector<Fact>& facts) {
  char host[64] = {};
  gethostname(host, sizeof(host) - 1);
  const std::vector<std::string> hosts = all_gather_text(world, host);
  for (const Fact& fact : facts) {
    const std::vector<std::string> values = all_gather_text(world, fact.value);
    const std::vector<std::string> shown = all_gather_text(world, fact.shown.empty() ? fact.value : fact.shown);
    for (size_t r = 1; r < values.size(); ++r) {
      if (values[r] == values[0]) continue;
      throw engine::Error(
          engine::ExitCode::environment,
          engine::str(fact.name, " of rank ", r, " on ", hosts[r], " is ", shown[r], " but that of rank 0 on ",
                      hosts[0], " is ", shown[0], "; start every rank with the same"));
    }
  }
}

}  // namespace comm
