// Ranks on GPUs: collectives on device buffers by NCCL, one process per rank.
//
// A group of NCCL is made from a group of another transport of the same ranks, the host group, and does two things:
// - A collective on device buffers goes to NCCL, on a stream of its own. It begins when the calling thread's stream
//   comes to where it was called; wait() lets that stream wait for it, and never the host. So buffers belong to the
//   collective in the order of the stream, and waited_seconds() does not know of it. all_to_all_v trusts that what one
//   rank sends another expects: NCCL does not check it.
// - A collective on host memory (counts, losses, texts), barrier and split go to the host group. Staged through the
//   device they would cost two copies, a kernel and a wait each for a few bytes, and the host group names the ranks
//   that are missing.
// NCCL sums in an order of its own, which cannot matter: sums are exact (group.h).
//
// A thread of each rank watches NCCL: where a rank is lost, or a collective waits longer than set_deadline allows, it
// ends NCCL's kernels, and from then on every collective, every wait() and every wait for the stream throws
// Error(rank_lost), so that nothing that came of half a collective is read.
#pragma once

#include <memory>
#include <string>

#include "comm/group.h"

namespace comm {

// Whether this program was built with NCCL.
bool nccl_is_built();
// "NCCL 2.28.9"; empty without it.
std::string nccl_library();

// Collective over `host`, which is taken over. The calling thread is the rank's main thread, and its device is chosen
// already. Throws Error(environment) without NCCL or without a device.
std::unique_ptr<Group> make_nccl_group(std::unique_ptr<Group> host);

// Which rank uses which GPU of its host.
struct DeviceShare {
  bool shared = false;  // several ranks may use one GPU: for tests, as they wait for each other's kernels
};
// Collective: gives each rank of a host a device of its own (choose_device), by rank. Throws Error(environment), alike
// on all ranks, where a host has more ranks than devices and they may not be shared.
void choose_devices(Group& host, const DeviceShare& share);

}  // namespace comm
