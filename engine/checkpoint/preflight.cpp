#include "engine/checkpoint/preflight.h"

#include <algorithm>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/file_system.h"
#include "engine/config/units.h"
#include "engine/core/error.h"

namespace engine::checkpoint {
namespace {

void probe(const Directory& directory) {
  const std::string name = ".tmp-probe", renamed = ".tmp-probe-renamed";
  directory.remove_file(name);
  directory.remove_file(renamed);
  NewFile file = directory.create(name);
  file.write("switchyard");
  file.finish();
  directory.rename(name, renamed);
  directory.sync();
  directory.remove_file(renamed);
}

}  // namespace

std::vector<std::string> prepare_directory(const std::string& directory, int64_t bytes, int64_t keep_last,
                                           Storage& storage) {
  const Directory inside = Directory::open_or_make(directory, storage);
  probe(inside);
  std::vector<std::string> removed;
  for (const std::string& name : inside.names()) {
    if (!name.starts_with(".tmp-") && !name.starts_with(".trash-")) continue;
    inside.remove_directory(name);
    removed.push_back(name);
  }
  const int64_t there = static_cast<int64_t>(list_checkpoints(directory, storage).size());
  const int64_t more = std::max<int64_t>(1, keep_last + 1 - there);
  const int64_t free = inside.free_bytes();
  if (free / more < bytes) {
    throw Error(ExitCode::environment,
                str("checkpoints of this run have ", print_bytes(bytes), " each, and ", more, " more need ",
                    print_bytes(bytes * more), " in ", directory, " where ", print_bytes(free),
                    " are free; make room, lower checkpoint.keep_last, or give another --run-dir"));
  }
  return removed;
}

}  // namespace engine::checkpoint
