#include "engine/train/trainer.h"

#include "tests/support/compare.h"
#include "tests/support/tiny_run.h"

namespace {

using namespace engine;
using test::tiny_config;
using test::TinyResult;
using test::train_tiny;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int64_t kManySteps = 6;  // each takes a hundred times as long
#else
constexpr int64_t kManySteps = 50;
#endif

void check_same_run(const TinyResult& a, const TinyResult& b) {
  CHECK(a.losses == b.losses);
  CHECK(a.norms == b.norms);
  CHECK(a.digest == b.digest);
  CHECK(std::memcmp(a.weights.data(), b.weights.data(), a.weights.size() * sizeof(float)) == 0);
}

}  // namespace

TEST_CASE("trainer: the loss of a pattern falls") {
  TinyResult run = train_tiny(tiny_config(), 60);
  INFO("first ", run.losses.front(), " last ", run.losses.back());
  CHECK(run.losses.front() > 4.0);  // log 61 = 4.11
  CHECK(run.losses.back() < 0.5 * run.losses.front());
  CHECK(run.aux_losses.front() == doctest::Approx(1.0).epsilon(0.2));
  CHECK(run.recomputed == 1);  // the first step finds the bounds
}

TEST_CASE("trainer: many steps give the same bits twice, on 1 to 4 threads, and on every instruction set") {
  const Config config = tiny_config();
  const TinyResult expected = train_tiny(config, kManySteps);
  CHECK(expected.losses.back() < (kManySteps < 50 ? 1.0 : 0.7) * expected.losses.front());
  check_same_run(train_tiny(config, kManySteps), expected);
  for (int threads : {2, 3, 4}) {
    INFO(threads, " threads");
    check_same_run(train_tiny(config, kManySteps, 1, 1, threads), expected);
  }
  test::for_each_cpu_target([&] { check_same_run(train_tiny(config, kManySteps), expected); });
}

TEST_CASE("trainer: many steps give the same bits for every micro_batch of whole granules") {
  Config config = tiny_config();
  config.model.router.capacity_factor = 1.0;  // a matter of the granule
  const TinyResult expected = train_tiny(config, kManySteps);
  for (int64_t micro_batch : {4, 6, 8, 10, 12, 14, 16}) {  // a granule has 2 sequences
    INFO("micro_batch ", micro_batch);
    config.train.micro_batch = micro_batch;
    check_same_run(train_tiny(config, kManySteps), expected);
  }
}

TEST_CASE("trainer: a granule cut into passes gives the same bits where no loss is scoped to the granule") {
  Config config = tiny_config();
  config.model.router.aux_loss_scope = "sequence";
  config.model.tie_word_embeddings = true;
  const TinyResult expected = train_tiny(config, kManySteps);
  config.train.micro_batch = 1;
  check_same_run(train_tiny(config, kManySteps), expected);
  config.train.granules = 1;
  config.train.micro_batch = 16;
  const TinyResult one_granule = train_tiny(config, kManySteps);
  CHECK(one_granule.recomputed == 0);
  CHECK(one_granule.digest != expected.digest);  // another granularity is another, equally exact, training
  CHECK(one_granule.losses.back() == doctest::Approx(expected.losses.back()).epsilon(0.02));
  for (int64_t micro_batch : {1, 2, 8}) {
    config.train.micro_batch = micro_batch;
    check_same_run(train_tiny(config, kManySteps), one_granule);
  }
}

TEST_CASE("trainer: a gradient that is not finite stops the run before a weight is touched, and names the tensor") {
  const Config config = tiny_config();
  comm::ParallelGroups groups = comm::make_parallel_groups(comm::make_self_group(), 1);
  train::Trainer trainer(config, groups);
  const auto read = [&](int64_t sample, int32_t* tokens) { test::tiny_sample(config, sample, tokens); };
  trainer.train_step(0, read);
  for (const char* name : {"model.layers.1.mlp.experts.3.up_proj.weight", "lm_head.weight"}) {
    nn::Parameter& broken = *trainer.store().find(name);
    const float saved = broken.weight.f32()[1];
    broken.weight.f32()[1] = std::numeric_limits<float>::infinity();
    trainer.store().weights_changed();
    const float* weights = trainer.store().dense().weights.f32();
    const std::vector<float> before(weights, weights + trainer.store().dense().elements);
    std::string message;
    try {
      trainer.train_step(16, read);
    } catch (const Error& error) {
      CHECK(error.code() == ExitCode::numerical);
      message = error.what();
    }
    CHECK(message.find("is not finite; the weights were not touched") != std::string::npos);
    CHECK(message.find("the gradient of lm_head.weight") == 0);  // the first in the order of the table
    CHECK(std::memcmp(weights, before.data(), before.size() * sizeof(float)) == 0);
    broken.weight.f32()[1] = saved;
    trainer.store().weights_changed();
  }
}

TEST_CASE("trainer: rows at experts beyond parallel.recv_memory end the run with a message") {
  Config config = test::tiny_config();
  config.model.router.bias_update_rate = 0.01;
  auto train = [&](int64_t bytes, float bias) {
    config.parallel.recv_memory = ByteCount{bytes};
    int64_t row_bytes = 0;
    comm::run_thread_ranks(4, 1, [&](std::unique_ptr<comm::Group> world) {
      comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), 4);
      train::Trainer trainer(config, groups);
      // all tokens to the two experts of one rank
      for (moe::MoeLayer* layer : trainer.model().moe_layers()) {
        layer->expert_bias()->values()[2] = layer->expert_bias()->values()[3] = bias;
      }
      trainer.train_step(0, [&](int64_t sample, int32_t* tokens) { test::tiny_sample(config, sample, tokens); });
      if (groups.world->rank() == 1) {
        for (moe::MoeLayer* layer : trainer.model().moe_layers()) row_bytes += layer->row_bytes();
      }
    });
    return row_bytes;
  };
  const int64_t all = int64_t{1} << 40, even = train(all, 0), uneven = train(all, 1e9f);
  CHECK(uneven > even);
  CHECK(train(uneven, 1e9f) == uneven);
  CHECK_THROWS_WITH_AS(train((even + uneven) / 2, 1e9f), doctest::Contains("to the experts of rank 1 of ep"), Error);
  CHECK_THROWS_WITH_AS(train(1000, 0), doctest::Contains("parallel.recv_memory is 1.0 kB"), Error);
}
