// Every damage to a checkpoint is found, and the file is named. DAMAGE_FLIPS: how many bits are flipped, one at a time;
// DAMAGE_RESULTS: a file that takes the table (scripts/checkpoint_damage.sh).
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "comm/thread_group.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/core/rng.h"
#include "engine/train/trainer_checkpoint.h"
#include "tests/support/compare.h"
#include "tests/support/memory_storage.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_run.h"

namespace {

using namespace engine;

#if defined(__SANITIZE_ADDRESS__)
constexpr int64_t kFlips = 100;
#else
constexpr int64_t kFlips = 400;
#endif

int64_t flips() {
  const char* wanted = std::getenv("DAMAGE_FLIPS");
  return wanted != nullptr ? std::atoll(wanted) : kFlips;
}

// A row of the table of results.
void record(const std::string& damage, int64_t cases) {
  const char* results = std::getenv("DAMAGE_RESULTS");
  if (results == nullptr) return;
  std::ofstream(results, std::ios::app) << "| " << damage << " | " << cases << " | all |\n";
}

// A run of 4 steps on two ranks with a checkpoint of steps 2 and 4, in memory.
struct SavedRun {
  test::TemporaryDirectory directory;
  test::MemoryStorage storage;

  explicit SavedRun(int64_t seed) {
    Config config = test::tiny_config();
    config.seed = seed;
    config.model.router.bias_update_rate = 0.01;
    comm::run_thread_ranks(2, 1, [&](std::unique_ptr<comm::Group> world) {
      comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), 2);
      train::Trainer trainer(config, groups);
      trainer.begin_digest();
      for (int64_t step = 1; step <= 4; ++step) {
        trainer.train_step((step - 1) * config.sequences_per_step(),
                           [&](int64_t sample, int32_t* tokens) { test::tiny_sample(config, sample, tokens); });
        if (step % 2 == 0) checkpoint::save_checkpoint(directory.path(), train::save_request(trainer), groups);
      }
    });
    for (int64_t step : {2, 4}) storage.copy_in(path(step));
  }
  std::string path(int64_t step) const { return directory.path() + "/" + checkpoint::checkpoint_name(step); }
  test::MemoryStorage::Files& files(int64_t step) { return storage.directories[path(step)]; }
  std::vector<std::string> problems(int64_t step) { return checkpoint::verify_checkpoint(path(step), storage); }

  // Whether a damage to this file was found, and which file it is.
  bool names(const std::string& file) {
    const std::vector<std::string> found = problems(4);
    if (found.empty()) return false;
    // COMMIT and the manifest vouch for each other
    return found[0].find(file) != std::string::npos ||
           (file == "COMMIT" && found[0].find("COMMIT") != std::string::npos);
  }
};

std::vector<size_t> cuts(const std::string& content) {
  std::vector<size_t> lengths;
  for (size_t length = 0; length < content.size(); length += 4096) lengths.push_back(length);
  for (size_t length : {size_t{1}, size_t{7}, size_t{8}, size_t{9}, content.size() / 2, content.size() - 1}) {
    if (length < content.size()) lengths.push_back(length);
  }
  return lengths;
}

}  // namespace

TEST_CASE("damage: a checkpoint without any is whole, on one rank and on three") {
  SavedRun run(7);
  CHECK(run.problems(4).empty());
  CHECK(run.problems(2).empty());
  comm::run_thread_ranks(3, 1, [&](std::unique_ptr<comm::Group> world) {
    CHECK(checkpoint::verify_checkpoint(run.path(4), *world).empty());
  });
}

TEST_CASE("damage: every flipped bit is found, in whichever file") {
  SavedRun run(7);
  std::vector<std::pair<std::string, size_t>> ends;  // files one after the other
  size_t total = 0;
  for (const auto& [name, content] : run.files(4)) ends.emplace_back(name, total += content.size());
  const auto flip = [&](const std::string& name, size_t byte, uint32_t bit) {
    char& target = run.files(4)[name][byte];
    target = static_cast<char>(target ^ (1 << bit));
    CHECK_MESSAGE(run.names(name), name, ", byte ", byte, ", bit ", bit);
    target = static_cast<char>(target ^ (1 << bit));
  };
  for (int64_t i = 0; i < flips(); ++i) {
    const Philox4 draw = philox(99, static_cast<uint64_t>(i));
    const size_t place = draw[0] % total;
    const auto file = std::find_if(ends.begin(), ends.end(), [&](const auto& end) { return place < end.second; });
    const size_t begin = file == ends.begin() ? 0 : std::prev(file)->second;
    flip(file->first, place - begin, draw[1] % 8);
  }
  record("one bit of all files flipped, at random", flips());
  int64_t small = 0;  // the files that vouch for the others, bit by bit
  const size_t stride = flips() > kFlips ? 1 : 61;
  for (const char* name : {"COMMIT", "manifest.json", "state.json"}) {
    const size_t bits = 8 * std::min<size_t>(run.files(4)[name].size(), 2048);
    for (size_t bit = 0; bit < bits; bit += stride, ++small) flip(name, bit / 8, static_cast<uint32_t>(bit % 8));
  }
  record("each bit of COMMIT and of the first 2 KiB of manifest.json and state.json", small);
  CHECK(run.problems(4).empty());
}

TEST_CASE("damage: every cut, missing or lengthened file is found, and one that does not belong") {
  SavedRun run(7);
  int64_t cases = 0;
  const test::MemoryStorage::Files whole = run.files(4);
  for (const auto& [name, content] : whole) {
    for (size_t length : cuts(content)) {
      run.files(4)[name] = content.substr(0, length);
      CHECK_MESSAGE(run.names(name), name, " cut to ", length);
      ++cases;
    }
    run.files(4)[name] = content + '\0';
    CHECK_MESSAGE(run.names(name), name, " lengthened");
    run.files(4).erase(name);
    CHECK_MESSAGE(run.names(name), name, " removed");
    run.files(4)[name] = content;
    cases += 2;
  }
  run.files(4)["stray.txt"] = "x";
  CHECK(run.names("stray.txt"));
  record("a file cut at each 4 KiB boundary and near its ends, lengthened, removed; a stray one", cases + 1);
}

TEST_CASE("damage: files exchanged within a checkpoint, between steps and between runs are found") {
  SavedRun run(7), other(8);
  const test::MemoryStorage::Files whole = run.files(4);
  int64_t cases = 0;
  const auto exchange = [&](const std::string& name, const std::string& content, const char* from) {
    if (content == whole.at(name)) return;  // as generation_config.json of another run
    run.files(4)[name] = content;
    CHECK_MESSAGE(run.names(name), name, " of ", from);
    run.files(4)[name] = whole.at(name);
    ++cases;
  };
  for (const auto& [name, content] : whole) {
    for (const auto& [from, taken] : whole) exchange(name, taken, from.c_str());
    exchange(name, run.files(2).at(name), "another step");
    exchange(name, other.files(4).at(name), "another run");
  }
  // the files that vouch for the others, together
  for (SavedRun* source : {&run, &other}) {
    const int64_t step = source == &run ? 2 : 4;
    for (const char* name : {"COMMIT", "manifest.json"}) run.files(4)[name] = source->files(step).at(name);
    CHECK_FALSE(run.problems(4).empty());
    run.files(4)["state.json"] = source->files(step).at("state.json");
    CHECK_FALSE(run.problems(4).empty());
    run.files(4) = whole;
    cases += 2;
  }
  run.files(4) = run.files(2);
  REQUIRE_FALSE(run.problems(4).empty());
  CHECK(run.problems(4)[0].find("holds step 2") != std::string::npos);
  record("a file in place of another of the checkpoint, of another step, of another run; whole sets of them",
         cases + 1);
}

namespace {

using Json = nlohmann::ordered_json;

// Makes sizes and hashes those of the files as they are, so that only what they mean is wrong.
void seal(test::MemoryStorage::Files& files) {
  Json manifest = Json::parse(files["manifest.json"]);
  for (Json& file : manifest["files"]) {
    const std::string& content = files[file["name"]];
    file["bytes"] = content.size();
    file["sha256"] = to_hex(sha256(content.data(), static_cast<int64_t>(content.size())));
  }
  const std::string text = manifest.dump(1);
  files["manifest.json"] = text;
  files["COMMIT"] = Json{{"magic", "switchyard checkpoint"},
                         {"manifest_bytes", text.size()},
                         {"manifest_sha256", to_hex(sha256(text.data(), static_cast<int64_t>(text.size())))}}
                        .dump();
}

const std::string kExpert = "model.layers.1.mlp.experts.3.up_proj.weight";

Json& entry_of(Json& list, const std::string& name) {
  for (Json& entry : list) {
    if (entry["name"] == name) return entry;
  }
  FAIL("no ", name);
  return list;
}

}  // namespace

TEST_CASE("damage: what has its hashes but cannot be the whole model is refused, and the tensor is named") {
  SavedRun run(7);
  const test::MemoryStorage::Files whole = run.files(4);
  const auto problem_after = [&](const std::string& file, auto change) {
    run.files(4) = whole;
    Json json = Json::parse(run.files(4)[file]);
    change(json);
    run.files(4)[file] = json.dump(1);
    seal(run.files(4));
    const std::vector<std::string> found = run.problems(4);
    std::string all;
    for (const std::string& problem : found) all += problem + "\n";
    return all;
  };
  const auto check = [](const std::string& problems, const std::string& expected) {
    CHECK_MESSAGE(problems.find(expected) != std::string::npos, "not \"", expected, "\" but: ", problems);
  };
  CHECK(problem_after("manifest.json", [](Json&) {}).empty());
  check(problem_after("manifest.json",
                      [](Json& manifest) {
                        for (const char* list : {"weights", "moments"}) {
                          Json kept = Json::array();
                          for (const Json& entry : manifest[list]) {
                            if (entry["name"] != kExpert) kept.push_back(entry);
                          }
                          manifest[list] = kept;
                        }
                      }),
        "holds 2 of the 3 projections of model.layers.1.mlp.experts.3");
  check(problem_after("manifest.json", [](Json& manifest) { entry_of(manifest["moments"], kExpert)["name"] = "w"; }),
        "moments of w but no such weight");
  check(problem_after("manifest.json", [](Json& manifest) { manifest["weights"].push_back(manifest["weights"][0]); }),
        "is listed twice");
  check(problem_after("manifest.json",
                      [](Json& manifest) {
                        Json& shape = entry_of(manifest["weights"], kExpert)["shape"];
                        shape = {shape[1], shape[0]};
                      }),
        kExpert + " has another dtype or shape");
  check(problem_after("manifest.json", [](Json& manifest) { manifest["step"] = 5; }), "is of step 4 but");
  check(problem_after("manifest.json", [](Json& manifest) { manifest["state_classes"].erase(1); }),
        "it lacks the state exp_avg");
  check(problem_after("state.json", [](Json& state) { state["config"]["model"]["num_experts"] = 9; }),
        "holds 0 of the 3 projections of model.layers.0.mlp.experts.8");
  check(problem_after("state.json", [](Json& state) { state["config"]["model"]["num_experts"] = 7; }),
        "holds model.layers.0.mlp.experts.7, but its config has no such expert");
  check(problem_after("state.json", [](Json& state) { state["config"]["model"]["attention_bias"] = true; }),
        "elements of weights but its config makes");
  check(problem_after("state.json", [](Json& state) { state.erase("digest"); }), "has no \"digest\"");
  check(problem_after("state.json", [](Json& state) { state["arrays"]["gradient_bounds"][0] = "x"; }),
        "gradient_bounds holds what is no number");
  check(problem_after("model.safetensors.index.json", [](Json& index) { index["weight_map"].erase(kExpert); }),
        "does not place " + kExpert);
  check(problem_after("model.safetensors.index.json", [](Json& index) { index["weight_map"]["w"] = "m"; }),
        "names w, which is not there");
}

TEST_CASE("damage: values that are not finite are not loaded") {
  SavedRun run(7);
  const checkpoint::Reader reader(run.path(4), run.storage);
  const checkpoint::Manifest::Moments& range = reader.manifest().moments.at(kExpert)[0];
  const auto* entry = reader.tensors(range.file).find(checkpoint::moment_tensor("exp_avg_sq", kExpert, range.begin));
  REQUIRE(entry != nullptr);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(run.files(4)[range.file].data() + entry->begin + 8, &nan, 4);
  seal(run.files(4));
  std::vector<float> exp_avg(static_cast<size_t>(range.count)), exp_avg_sq(exp_avg);
  std::vector<checkpoint::MomentSlice> slices{{kExpert, range.begin, range.count, exp_avg.data(), exp_avg_sq.data()}};
  const checkpoint::Reader damaged(run.path(4), run.storage);
  CHECK_THROWS_WITH_AS(damaged.load_moments(slices), doctest::Contains("is not finite"), Error);
  slices[0].count = 1;  // a part without the value
  CHECK_NOTHROW(damaged.load_moments(slices));
  slices[0].name = "w";
  CHECK_THROWS_WITH_AS(damaged.load_moments(slices), doctest::Contains("no optimizer values of w"), Error);
}
