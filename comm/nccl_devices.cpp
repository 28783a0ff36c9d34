#include <unistd.h>

#include <cstdlib>
#include <vector>

#include "comm/nccl_world.h"
#include "comm/text.h"
#include "engine/core/device.h"
#include "engine/core/error.h"

namespace comm {

using engine::Error;
using engine::ExitCode;
using engine::str;

void choose_devices(Group& host, const DeviceShare& share) {
  char name[64] = {};
  gethostname(name, sizeof(name) - 1);
  const std::string reason = engine::why_no_device();
  const std::vector<std::string> hosts = all_gather_text(host, name), reasons = all_gather_text(host, reason);
  for (size_t r = 0; r < reasons.size(); ++r) {
    if (!reasons[r].empty()) throw Error(ExitCode::environment, str("rank ", r, " on ", hosts[r], ": ", reasons[r]));
  }
  const size_t rank = static_cast<size_t>(host.rank());
  int before = 0;  // ranks of this host
  for (size_t r = 0; r < rank; ++r) before += hosts[r] == hosts[rank] ? 1 : 0;
  engine::choose_device(before % engine::device_count());
  // a launcher may show each rank another device, so what they have is compared, not counted
  const std::vector<std::string> devices = all_gather_text(host, engine::device_bus_id());
  for (size_t r = 0; r < hosts.size() && !share.shared; ++r) {
    for (size_t other = 0; other < r; ++other) {
      if (hosts[r] != hosts[other] || devices[r] != devices[other]) continue;
      throw Error(ExitCode::environment, str("ranks ", other, " and ", r, " would share the GPU ", devices[r], " of ",
                                             hosts[r], "; start at most as many ranks on a host as it has GPUs"));
    }
  }
  // NCCL refuses two ranks of one host on one device, and takes ranks with different names for ranks of other hosts
  if (share.shared) setenv("NCCL_HOSTID", str(name, "-rank-", rank).c_str(), 1);
}

}  // namespace comm
