#include "engine/config/config_difference.h"

#include <doctest/doctest.h>

#include <algorithm>

using namespace engine;

TEST_CASE("config_difference: equal configs have none, whatever is written out") {
  Config a, b;
  CHECK(config_differences(a, b).empty());
  a.directory = "/elsewhere", a.text = "{}";  // not keys
  CHECK(config_differences(a, b).empty());
}

TEST_CASE("config_difference: every key that differs is named once, with both values") {
  Config a, b;
  a.train.seq_len = 128;
  b.model.router.aux_loss_coef = 0.25;
  SourceConfig& source = b.data.sources.emplace_back();
  source.name = "text", source.files = {"a.txt"};
  b.model.head_dim = 16;
  const std::vector<std::string> lines = config_differences(a, b);
  const auto has = [&](const std::string& line) { return std::count(lines.begin(), lines.end(), line) == 1; };
  CHECK(has("train.seq_len: 128 there, 256 here"));
  CHECK(has("model.head_dim: nothing there, 16 here"));
  CHECK(has("data.sources[0].name: nothing there, \"text\" here"));
  CHECK(has("data.sources[0].files[0]: nothing there, \"a.txt\" here"));
  CHECK(std::none_of(lines.begin(), lines.end(),
                     [](const std::string& line) { return line.starts_with("data.sources:"); }));
  CHECK(std::count_if(lines.begin(), lines.end(), [](const std::string& line) {
          return line.starts_with("model.router.aux_loss_coef: ") && line.ends_with(" there, 0.25 here");
        }) == 1);
}
