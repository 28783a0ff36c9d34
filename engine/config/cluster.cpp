#include "engine/config/cluster.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include "engine/config/object_reader.h"
#include "engine/core/error.h"

namespace engine {

ClusterConfig load_cluster(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw Error(ExitCode::usage, str("cluster description ", path, " cannot be read (", std::strerror(errno),
                                     "); give the path of a JSON file, e.g. configs/clusters/h100_8.json"));
  }
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  Problems problems(path, text);
  ClusterConfig cluster;
  JsonValue root;
  try {
    root = read_json(text, {.comments = true}, ExitCode::usage);
  } catch (const JsonError& error) {
    problems.add(error.position(), "", error.what());
    problems.raise();
  }
  if (root.type == JsonValue::Type::object) {
    ObjectReader(root, "", problems).read(cluster);
  } else {
    problems.add(root.position, "", str("a cluster description is an object, not ", json_type_name(root.type)));
  }
  if (!problems.empty()) problems.raise();
  return cluster;
}

}  // namespace engine
