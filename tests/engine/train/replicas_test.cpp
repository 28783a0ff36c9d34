// Ranks that hold the same weight and differ in one bit are told so before it is saved.
#include "engine/train/replicas.h"

#include "tests/support/ranks.h"
#include "tests/support/tiny_run.h"

namespace {

using namespace engine;

// What four ranks with ep_size 2 find after rank `rank` has changed one bit of a weight.
std::string found_after_change(int rank, const std::string& weight) {
  std::string message;
  try {
    comm::run_thread_ranks(4, 1, [&](std::unique_ptr<comm::Group> world) {
      comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), 2);
      train::Trainer trainer(test::tiny_config(), groups);
      if (nn::Parameter* parameter = trainer.store().find(weight);
          parameter != nullptr && groups.world->rank() == rank) {
        reinterpret_cast<uint32_t*>(parameter->weight.f32())[parameter->elements - 1] ^= 1;
      }
      train::check_replicas(trainer.table(), groups);
    });
  } catch (const Error& error) {
    CHECK(error.code() == ExitCode::rank_lost);
    message = error.what();
  }
  return message;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("replicas: equal ones pass, on one rank and on four") {
  CHECK(found_after_change(-1, "model.norm.weight").empty());
  comm::ParallelGroups groups = comm::make_parallel_groups(comm::make_self_group(), 1);
  train::Trainer trainer(test::tiny_config(), groups);
  CHECK_NOTHROW(train::check_replicas(trainer.table(), groups));
}

TEST_CASE("replicas: a dense weight that differs on one rank is named with all who hold it") {
  const std::string message = found_after_change(2, "model.layers.1.mlp.gate.weight");
  INFO(message);
  CHECK(contains(message, "model.layers.1.mlp.gate.weight is not the same on all ranks"));
  CHECK(contains(message, "rank 0 on "));
  CHECK((contains(message, "| rank 2 on ") || contains(message, ": rank 2 on ")));
}

TEST_CASE("replicas: an expert is compared between the ranks that hold it") {
  // experts 4 to 7 are on ranks 1 and 3
  const std::string message = found_after_change(3, "model.layers.0.mlp.experts.5.up_proj.weight");
  INFO(message);
  CHECK(contains(message, "model.layers.0.mlp.experts.5.up_proj.weight is not the same"));
  CHECK(contains(message, "rank 1 on "));
  CHECK(!contains(message, "rank 0 on "));
}
