#include "engine/train/trainer.h"

#include "tests/support/compare.h"
#include "tests/support/tiny_run.h"

namespace {

using namespace engine;
using test::tiny_config;
using test::TinyResult;
using test::train_tiny;

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

TEST_CASE("trainer: the same bits for every number of threads, micro-batch and instruction set") {
  Config config = tiny_config();
  const TinyResult expected = train_tiny(config, 6);
  for (int threads : {2, 3}) check_same_run(train_tiny(config, 6, 1, 1, threads), expected);
  for (int64_t micro_batch : {4, 6, 8, 16}) {  // a granule has 2 sequences
    INFO("micro_batch ", micro_batch);
    config.train.micro_batch = micro_batch;
    check_same_run(train_tiny(config, 6), expected);
  }
  test::for_each_cpu_target([&] { check_same_run(train_tiny(config, 6), expected); });
}

TEST_CASE("trainer: a granule cut into passes gives the same bits where no loss is scoped to the granule") {
  Config config = tiny_config();
  config.model.router.aux_loss_scope = "sequence";
  config.model.tie_word_embeddings = true;
  const TinyResult expected = train_tiny(config, 6);
  config.train.micro_batch = 1;
  check_same_run(train_tiny(config, 6), expected);
  config.train.granules = 1;
  config.train.micro_batch = 16;
  const TinyResult one_granule = train_tiny(config, 6);
  CHECK(one_granule.recomputed == 0);
  CHECK(one_granule.digest != expected.digest);  // another granularity is another, equally exact, training
  CHECK(one_granule.losses.back() == doctest::Approx(expected.losses.back()).epsilon(1e-3));
  for (int64_t micro_batch : {1, 2, 8}) {
    config.train.micro_batch = micro_batch;
    check_same_run(train_tiny(config, 6), one_granule);
  }
}
