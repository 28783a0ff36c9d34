#include "engine/train/config_change.h"

#include <algorithm>

#include "engine/config/canonical.h"
#include "engine/core/error.h"
#include "tests/support/compare.h"
#include "tests/support/tiny_run.h"

namespace {

using namespace engine;
using train::ChangeKind;

}  // namespace

TEST_CASE("config change: every key of a config says whether it may differ when a run is resumed") {
  const std::vector<KeyDescription> keys = describe_keys();
  int64_t values = 0;
  for (const KeyDescription& key : keys) {
    const bool has_members = std::any_of(keys.begin(), keys.end(), [&](const KeyDescription& other) {
      return other.key.starts_with(key.key + ".") || other.key.starts_with(key.key + "[].");
    });
    if (has_members) continue;
    CHECK_NOTHROW_MESSAGE(train::change_kind(key.key), "add ", key.key, " to engine/train/config_change.cpp");
    ++values;
  }
  CHECK(values > 80);
  CHECK_THROWS_AS(train::change_kind("optim.new_key"), Error);
}

TEST_CASE("config change: identity is refused with every key, trajectory and free keys are told apart") {
  Config saved = test::tiny_config();
  saved.data.sources.resize(1);
  saved.data.sources[0].name = "a";
  saved.data.sources[0].files = {"a.txt"};
  Config ours = saved;
  CHECK(train::config_changes(saved, ours).empty());
  ours.optim.lr = 1;
  ours.log.every = {3};
  ours.data.sources[0].files = {"b.txt", "c.txt"};
  std::vector<train::ConfigChange> changes = train::config_changes(saved, ours);
  REQUIRE(changes.size() == 4);
  const auto kind_of = [&](const std::string& key) {
    for (const train::ConfigChange& change : changes) {
      if (change.key == key) return change.kind;
    }
    FAIL("no change of ", key);
    return ChangeKind::identity;
  };
  CHECK(kind_of("optim.lr") == ChangeKind::trajectory);
  CHECK(kind_of("log.every") == ChangeKind::free);
  CHECK(kind_of("data.sources[0].files[0]") == ChangeKind::free);
  CHECK(kind_of("data.sources[0].files[1]") == ChangeKind::free);
  CHECK_NOTHROW(train::check_changes(changes, {}));

  ours.seed = 8;
  ours.data.sources[0].name = "z";
  changes = train::config_changes(saved, ours);
  CHECK_THROWS_WITH_AS(train::check_changes(changes, {}),
                       doctest::Contains("seed: 7 there, 8 here; data.sources[0].name: \"a\" there, \"z\" here"),
                       Error);
  CHECK_THROWS_WITH_AS(train::check_changes(changes, {"seed"}),
                       doctest::Contains("--allow-change data.sources[0].name"), Error);
  CHECK_NOTHROW(train::check_changes(changes, {"seed", "data"}));
  CHECK_FALSE(train::is_allowed("datafile", {"data"}));
}

TEST_CASE("config change: only names of keys can be allowed") {
  CHECK_NOTHROW(train::check_allowed_names({"data", "model", "data.sources[0].name", "model.rope_theta", "seed"}));
  for (const char* name : {"dat", "model.rope", "", "text"}) {
    CHECK_THROWS_AS_MESSAGE(train::check_allowed_names({name}), Error, name);
  }
}
