// A source of a data config, for tests.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "engine/config/config.h"

namespace test {

inline engine::SourceConfig source(const std::string& name, std::vector<std::string> files) {
  engine::SourceConfig config;
  config.name = name;
  config.files = std::move(files);
  return config;
}

}  // namespace test
