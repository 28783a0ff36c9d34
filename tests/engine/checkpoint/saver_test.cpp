// Saving beside training: what is written is the copy, whatever training and the disk do meanwhile.
#include "engine/checkpoint/saver.h"

#include "engine/checkpoint/file_system.h"
#include "engine/checkpoint/preflight.h"
#include "engine/checkpoint/save_checks.h"
#include "engine/train/trainer_checkpoint.h"
#include "tests/support/compare.h"
#include "tests/support/simulated_disk.h"
#include "tests/support/tiny_run.h"

namespace {

using namespace engine;
using checkpoint::Saver;
using test::SimulatedDisk;
using Json = nlohmann::ordered_json;

const char kDirectory[] = "run/checkpoints";

checkpoint::SaveRequest request_of(train::Trainer& trainer, int64_t step, checkpoint::Storage& disk,
                                   int64_t keep_last = 5) {
  checkpoint::SaveRequest request = train::save_request(trainer);
  request.state.step = step;
  request.keep_last = keep_last;
  request.storage = &disk;
  return request;
}

void on_ranks(int ranks, const std::function<void(train::Trainer&)>& body) {
  comm::run_thread_ranks(ranks, 1, [&](std::unique_ptr<comm::Group> world) {
    comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), ranks);
    Config config = test::tiny_config();
    config.model.hidden_size = 8;
    config.model.num_hidden_layers = 1;
    config.model.num_attention_heads = 2;
    config.model.num_key_value_heads = 1;
    config.model.head_dim = 4;
    config.model.num_experts = 4;
    config.model.moe_intermediate_size = 4;
    train::Trainer trainer(config, groups);
    trainer.begin_digest();
    body(trainer);
  });
}

void step(train::Trainer& trainer) {
  const Config& config = trainer.config();
  trainer.train_step(trainer.step() * config.sequences_per_step(),
                     [&](int64_t sample, int32_t* tokens) { test::tiny_sample(config, sample, tokens); });
}

std::vector<float> weights_of(train::Trainer& trainer) {
  std::vector<float> values;
  for (const nn::Parameter& p : trainer.store().all())
    values.insert(values.end(), p.weight.f32(), p.weight.f32() + p.elements);
  return values;
}

std::string newest(SimulatedDisk& disk) {
  std::vector<std::string> problems;
  const std::string path = checkpoint::newest_whole_checkpoint(kDirectory, problems, disk);
  CHECK(problems.empty());
  return path.substr(path.rfind('/') + 1);
}

}  // namespace

TEST_CASE("saver: training goes on while a save is written, and what is saved is the state it began with") {
  SimulatedDisk disk;
  std::atomic<bool> held{false};
  disk.fault = [&](const char* what, int64_t*) {
    while (held && std::string(what) == "create") std::this_thread::yield();
    return 0;
  };
  on_ranks(2, [&](train::Trainer& trainer) {
    Saver saver(trainer.groups());
    CHECK_FALSE(saver.wait());
    for (int64_t n = 1; n <= 6; ++n) {
      step(trainer);
      const std::vector<float> now = weights_of(trainer);
      held = true;  // no file is begun before training has gone on
      trainer.groups().world->barrier();
      saver.begin(kDirectory, request_of(trainer, n, disk));
      step(trainer);
      CHECK(weights_of(trainer) != now);
      CHECK_FALSE(saver.finished());
      trainer.groups().world->barrier();
      held = false;
      const auto outcome = saver.wait();
      REQUIRE(outcome);
      CHECK_MESSAGE(outcome->durable(), outcome->error);
      CHECK(outcome->path == str(kDirectory, "/step-0000000", n));
      trainer.groups().world->barrier();
      const checkpoint::Reader reader(outcome->path, disk);
      CHECK(reader.state().step == n);
      comm::ParallelGroups& groups = trainer.groups();
      train::Trainer other(trainer.config(), groups);
      reader.load_weights(other.store());
      CHECK(weights_of(other) == now);
      trainer.groups().world->barrier();
    }
    CHECK_FALSE(saver.finished());
  });
  CHECK(checkpoint::list_checkpoints(kDirectory, disk).size() == 5);
  CHECK(newest(disk) == "step-00000006");
}

TEST_CASE("saver: a weight that was updated but is saved as it was is an error, and one save is under way at most") {
  SimulatedDisk disk;
  on_ranks(1, [&](train::Trainer& trainer) {
    Saver saver(trainer.groups());
    const auto save = [&](int64_t n) {
      saver.begin(kDirectory, request_of(trainer, n, disk));
      const auto outcome = saver.wait();
      REQUIRE(outcome);
      return outcome->error;
    };
    step(trainer);
    CHECK(save(1) == "");
    CHECK(save(2) == "");  // nothing was updated
    step(trainer);
    trainer.optimizer().fetch_updated();
    CHECK(trainer.optimizer().slices()[0].updated == 1);
    CHECK(save(3) == "");
    CHECK(trainer.optimizer().slices()[0].updated == 0);
    trainer.optimizer().slices()[2].updated = 1;  // as if the update had gone to other memory
    const std::string name = trainer.optimizer().slices()[2].parameter->spec.name;
    CHECK(save(4).find(name + " was updated since the last checkpoint") != std::string::npos);
    step(trainer);
    CHECK(save(5) == "");
    saver.begin(kDirectory, request_of(trainer, 6, disk));
    CHECK_THROWS_WITH_AS(saver.begin(kDirectory, request_of(trainer, 7, disk)), doctest::Contains("under way"), Error);
  });
  CHECK(newest(disk) == "step-00000006");
}

TEST_CASE("saver: a failure of any operation leaves older checkpoints whole, and the next save succeeds") {
  struct Fault {
    std::string name;
    int error;  // 0: fewer bytes are written
  };
  for (const Fault& fault : {Fault{"no room", -ENOSPC}, Fault{"a broken disk", -EIO}, Fault{"short writes", 0}}) {
    for (int ranks : fault.error == -EIO ? std::vector<int>{1, 2} : std::vector<int>{1}) {
      auto disk = std::make_unique<SimulatedDisk>();
      std::atomic<int64_t> operations{0};
      std::atomic<bool> reached{true};
      int64_t failed = 0, succeeded = 0, number = 0;
      on_ranks(ranks, [&](train::Trainer& trainer) {
        comm::Group& world = *trainer.groups().world;
        const bool leads = world.rank() == 0;
        // runs on the first rank while the others wait
        const auto alone = [&](const std::function<void()>& body) {
          world.barrier();
          if (leads) body();
          world.barrier();
        };
        Saver saver(trainer.groups());
        const auto save = [&](int64_t n) {
          saver.begin(kDirectory, request_of(trainer, n, *disk, 1));
          return saver.wait()->error;
        };
        step(trainer);
        CHECK(save(1) == "");
        const SimulatedDisk::Tree before = disk->tree();
        for (bool more = true; more; more = reached) {
          alone([&] {
            disk = std::make_unique<SimulatedDisk>(before);
            operations = 0, reached = false;
            disk->fault = [&](const char*, int64_t* bytes) {
              if (operations.fetch_add(1) != number) return 0;
              reached = true;
              if (fault.error != 0) return fault.error;
              if (bytes != nullptr) *bytes = (*bytes + 1) / 2;
              return 0;
            };
          });
          const std::string what = save(2);
          alone([&] {
            disk->fault = nullptr;
            const std::string place = str(fault.name, " at operation ", number, " on ", ranks, " ranks: ");
            CHECK_MESSAGE(newest(*disk) == (what.empty() ? "step-00000002" : "step-00000001"), place, what);
          });
          CHECK(save(3) == "");
          alone([&] {
            CHECK(newest(*disk) == "step-00000003");
            CHECK(checkpoint::names_in(kDirectory, *disk).size() == 1);
            CHECK(disk->open_handles() == 0);
            ++number;
            ++(what.empty() ? succeeded : failed);
            if (what.empty()) return;
            CHECK(what.find("the checkpoint was not saved: cannot ") != std::string::npos);
            CHECK(what.find(fault.error == -EIO ? "Input/output error" : "No space left") != std::string::npos);
          });
        }
      });
      MESSAGE(fault.name, " on ", ranks, " ranks: ", failed, " saves failed, ", succeeded, " did not mind");
      CHECK(number > 40);
      CHECK((fault.error == 0) == (failed == 0));
    }
  }
}

TEST_CASE("saver: what ranks wrote has to be the model, each part once") {
  const auto weight = [](const char* name, int64_t count, const char* hash = "aa") {
    return Json{{"name", name}, {"count", count}, {"xxh3", hash}};
  };
  const auto moment = [](const char* name, int64_t begin, int64_t count, bool updated = false) {
    return Json{{"name", name}, {"begin", begin}, {"count", count}, {"updated", updated}};
  };
  const checkpoint::Weights model{{"a", 10}, {"b", 4}};
  const Json weights = {weight("a", 10), weight("b", 4)};
  const Json moments = {moment("a", 6, 4), moment("a", 0, 6), moment("b", 0, 4)};
  const auto problem = [&](const Json& w, const Json& m, int64_t elements = 14,
                           const std::map<std::string, std::string>& previous = {}) -> std::string {
    try {
      checkpoint::check_written(w, m, model, elements, previous);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  const auto has = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };
  CHECK(problem(weights, moments) == "");
  CHECK(has(problem({weight("a", 10), weight("b", 4), weight("b", 4)}, moments), "b was written by two ranks"));
  CHECK(has(problem(Json::array({weight("a", 10)}), moments), "b was written by no rank"));
  CHECK(has(problem({weight("a", 10), weight("b", 3)}, moments), "b has 4 elements but 3 were written"));
  CHECK(has(problem({weight("a", 10), weight("b", 4), weight("c", 4)}, moments), "c was written but is no weight"));
  CHECK(has(problem(weights, moments, 15), "have 14 elements but the config makes 15"));
  CHECK(has(problem(weights, {moment("a", 0, 6), moment("b", 0, 4)}), "6 of 10 optimizer values of a"));
  CHECK(has(problem(weights, Json::array({moment("a", 0, 10)})), "0 of 4 optimizer values of b"));
  CHECK(has(problem(weights, {moment("a", 0, 6), moment("a", 5, 5), moment("b", 0, 4)}), "begin at element 5"));
  CHECK(has(problem(weights, {moment("a", 0, 10), moment("b", 0, 4), moment("d", 0, 1)}), "values of d but no such"));
  const Json updated = {moment("a", 0, 10, true), moment("b", 0, 4)};
  CHECK(problem(weights, updated, 14, {{"a", "bb"}, {"b", "aa"}}) == "");
  CHECK(has(problem(weights, updated, 14, {{"a", "aa"}}), "a was updated since the last checkpoint"));
}

TEST_CASE("saver: before a run there has to be room, and the directory has to take a file") {
  SimulatedDisk disk;
  disk.set_free_bytes(3500);
  CHECK(checkpoint::prepare_directory(kDirectory, 1000, 2, disk).empty());
  CHECK_THROWS_WITH_AS(checkpoint::prepare_directory(kDirectory, 1000, 3, disk),
                       "checkpoints of this run have 1.0 kB each, and 4 more need 4.0 kB in run/checkpoints where 3.5 "
                       "kB are free; make room, lower checkpoint.keep_last, or give another --run-dir",
                       Error);
  checkpoint::Directory::open(kDirectory, disk).make("step-00000001");
  checkpoint::Directory::open(kDirectory, disk).make(".tmp-00000002-abc-1").create("model").finish();
  checkpoint::Directory::open(kDirectory, disk).make(".trash-step-00000000");
  CHECK(checkpoint::prepare_directory(kDirectory, 1000, 3, disk) ==
        std::vector<std::string>{".tmp-00000002-abc-1", ".trash-step-00000000"});
  CHECK(checkpoint::names_in(kDirectory, disk) == std::vector<std::string>{"step-00000001"});
  for (const char* broken : {"create", "write", "fdatasync", "close", "rename", "fsync"}) {
    disk.fault = [&](const char* what, int64_t*) { return std::string(what) == broken ? -EROFS : 0; };
    CHECK_THROWS_WITH_AS_MESSAGE(checkpoint::prepare_directory(kDirectory, 1000, 2, disk),
                                 doctest::Contains("Read-only file system"), Error, broken);
  }
}
