// The same bits on any layout: after every step losses, gradients, moments and weights of every rank are those of one
// rank, for every number of ranks and every ep_size that divides them. Under tests/support/mpirun.sh the ranks are the
// processes of the job. LAYOUT_STEPS sets the steps of every case; with LAYOUT_ALL every ep_size is tried under MPI,
// too.
#include <algorithm>
#include <cstdlib>
#include <map>

#include "engine/train/trainer.h"
#include "tests/support/ranks.h"
#include "tests/support/tiny_run.h"

namespace {

using namespace engine;
using test::tiny_config;
using test::TinyResult;
using test::train_tiny;
using train::StepResult;
using train::Trainer;
using Prepare = std::function<void(Trainer&)>;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int64_t kManySteps = 5;  // each takes a hundred times as long
#else
constexpr int64_t kManySteps = 50;
#endif

// What one rank has after a step, by weight.
struct Snapshot {
  StepResult result;
  std::vector<double> square_sums;
  std::vector<int64_t> tokens_per_expert;
  std::map<std::string, std::vector<float>> exp_avg, exp_avg_sq, weights;
  std::vector<std::vector<float>> biases;
};

struct Case {
  Config config;
  int64_t steps;
  Prepare prepare = [](Trainer&) {};  // before the first step
};

StepResult one_step(const Config& config, Trainer& trainer, int64_t step) {
  return trainer.train_step(step * config.sequences_per_step(),
                            [&](int64_t sample, int32_t* tokens) { test::tiny_sample(config, sample, tokens); });
}

std::vector<std::vector<float>> biases_of(Trainer& trainer) {
  std::vector<std::vector<float>> biases;
  for (moe::MoeLayer* layer : trainer.model().moe_layers()) {
    if (layer->expert_bias()) biases.push_back(layer->expert_bias()->values());
  }
  return biases;
}

// One rank holds everything.
std::vector<Snapshot> reference_of(const Case& of) {
  std::vector<Snapshot> steps;
  comm::run_thread_ranks(1, 1, [&](std::unique_ptr<comm::Group> world) {
    comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), 1);
    Trainer trainer(of.config, groups);
    of.prepare(trainer);
    for (int64_t step = 0; step < of.steps; ++step) {
      Snapshot& now = steps.emplace_back();
      now.result = one_step(of.config, trainer, step);
      now.square_sums = trainer.optimizer().square_sums();
      now.tokens_per_expert = trainer.tokens_per_expert();
      now.biases = biases_of(trainer);
      for (const train::OptimizerSlice& slice : trainer.optimizer().slices()) {
        const std::string& name = slice.parameter->spec.name;
        const float* weight = slice.parameter->weight.f32();
        now.weights[name].assign(weight, weight + slice.count);
        now.exp_avg[name].assign(slice.exp_avg, slice.exp_avg + slice.count);
        now.exp_avg_sq[name].assign(slice.exp_avg_sq, slice.exp_avg_sq + slice.count);
      }
    }
  });
  return steps;
}

// Throws naming the first difference.
class Comparison {
 public:
  Comparison(std::string layout, int64_t step) : layout_(std::move(layout)), step_(step) {}

  template <class T>
  void same(const char* phase, const std::string& tensor, const T* ours, const T* expected, int64_t count,
            int64_t first = 0) const {
    if (std::memcmp(ours, expected, static_cast<size_t>(count) * sizeof(T)) == 0) return;
    for (int64_t i = 0; i < count; ++i) {
      if (std::memcmp(ours + i, expected + i, sizeof(T)) == 0) continue;
      throw Error(ExitCode::bug, str(layout_, ": the first difference is in step ", step_, ", ", phase, ", ", tensor,
                                     "[", first + i, "]: ", ours[i], " but one rank has ", expected[i]));
    }
  }
  void same(const char* phase, const char* what, double ours, double expected) const {
    same(phase, what, &ours, &expected, 1);
  }

 private:
  std::string layout_;
  int64_t step_;
};

void compare(const Comparison& with, Trainer& trainer, const StepResult& result, const Snapshot& expected) {
  with.same("forward", "loss", result.loss, expected.result.loss);
  with.same("forward", "aux_loss", result.aux_loss, expected.result.aux_loss);
  with.same("forward", "z_loss", result.z_loss, expected.result.z_loss);
  with.same("forward", "tokens_per_expert", trainer.tokens_per_expert().data(), expected.tokens_per_expert.data(),
            static_cast<int64_t>(expected.tokens_per_expert.size()));
  const auto& table = trainer.table().entries();
  for (size_t i = 0; i < table.size(); ++i) {
    with.same("backward", table[i].name + " gradient, squared norm", &trainer.optimizer().square_sums()[i],
              &expected.square_sums[i], 1);
  }
  with.same("backward", "grad_norm", result.grad_norm, expected.result.grad_norm);
  for (const train::OptimizerSlice& slice : trainer.optimizer().slices()) {
    const std::string& name = slice.parameter->spec.name;
    const float* exp_avg = expected.exp_avg.at(name).data() + slice.begin;
    const float* exp_avg_sq = expected.exp_avg_sq.at(name).data() + slice.begin;
    with.same("optimizer", name + " exp_avg", slice.exp_avg, exp_avg, slice.count, slice.begin);
    with.same("optimizer", name + " exp_avg_sq", slice.exp_avg_sq, exp_avg_sq, slice.count, slice.begin);
  }
  for (const nn::Parameter& parameter : trainer.store().all()) {
    const std::string& name = parameter.spec.name;
    with.same("optimizer", name, parameter.weight.f32(), expected.weights.at(name).data(), parameter.elements);
  }
  const auto biases = biases_of(trainer);
  for (size_t l = 0; l < biases.size(); ++l) {
    with.same("expert bias", str("MoE layer ", l), biases[l].data(), expected.biases[l].data(),
              static_cast<int64_t>(biases[l].size()));
  }
}

void check_layout(const Case& of, const std::vector<Snapshot>& expected, std::unique_ptr<comm::Group> world, int ep) {
  const std::string layout = str(world->size(), " ranks as ", world->transport(), ", ep_size ", ep);
  comm::ParallelGroups groups = comm::make_parallel_groups(std::move(world), ep);
  Trainer trainer(of.config, groups);
  of.prepare(trainer);
  for (int64_t step = 0; step < of.steps; ++step) {
    const StepResult result = one_step(of.config, trainer, step);
    compare(Comparison(layout, step + 1), trainer, result, expected[static_cast<size_t>(step)]);
  }
}

void check_all_layouts(Case of) {
  if (const char* steps = std::getenv("LAYOUT_STEPS")) of.steps = std::atoll(steps);
  if (test::on_mpi()) {
    if (std::getenv("LAYOUT_STEPS") == nullptr) of.steps = std::min<int64_t>(of.steps, 10);
    const std::vector<Snapshot> expected = reference_of(of);
    return test::run_mpi_ranks([&](std::unique_ptr<comm::Group> world) {
      const int ranks = world->size();
      for (int ep = 1; ep <= ranks; ++ep) {
        const bool tried = ep == 1 || ep == ranks || std::getenv("LAYOUT_ALL") != nullptr;
        if (ranks % ep == 0 && tried) check_layout(of, expected, world->split(0, world->rank()), ep);
      }
    });
  }
  const std::vector<Snapshot> expected = reference_of(of);
  for (int ranks : {1, 2, 3, 4, 5, 6, 8}) {
    for (int ep = 1; ep <= ranks; ++ep) {
      if (ranks % ep != 0) continue;
      CHECK_NOTHROW(comm::run_thread_ranks(
          ranks, 1, [&](std::unique_ptr<comm::Group> world) { check_layout(of, expected, std::move(world), ep); }));
    }
  }
}

// Everything that couples tokens, ranks or passes at once.
Config full_config() {
  Config config = tiny_config();
  config.model.hidden_size = 16;
  config.model.head_dim = 4;
  config.model.moe_intermediate_size = 12;
  config.model.n_shared_experts = 1;
  config.model.scoring_func = "sigmoid";
  config.model.router.bias_update_rate = 0.01;
  config.train.seq_len = 6;
  config.train.batch_tokens = {16 * 6};
  config.train.micro_batch = 2;  // several passes for few ranks, one for eight
  return config;
}

// A bias on the choice of one expert that no update reaches.
Prepare with_bias(size_t expert, float bias) {
  return [=](Trainer& trainer) {
    for (moe::MoeLayer* layer : trainer.model().moe_layers()) layer->expert_bias()->values()[expert] = bias;
  };
}

}  // namespace

TEST_CASE("layout: balance losses, expert bias, z-loss, shared expert, clipping, accumulation") {
  check_all_layouts({full_config(), kManySteps});
}

TEST_CASE("layout: capacity, pooled balance loss, shared expert with gate, query/key norms, tied embeddings") {
  Config config = tiny_config();
  config.model.router.capacity_factor = 0.8;
  config.model.router.aux_loss_kind = "hf";
  config.model.n_shared_experts = 1;
  config.model.shared_expert_gate = true;
  config.model.qk_norm = "head";
  config.model.tie_word_embeddings = true;
  check_all_layouts({config, 3});
}

TEST_CASE("layout: groups, expert bias, global balance, three experts a token, exchange in chunks") {
  Config config = full_config();
  config.model.num_experts_per_tok = 3;
  config.model.n_group = 4;
  config.model.topk_group = 2;
  config.model.routed_scaling_factor = 2.5;
  config.model.router.aux_loss_scope = "global";
  config.model.router.jitter = 0.05;
  config.model.first_k_dense_replace = 1;
  config.parallel.overlap_chunks = 3;
  check_all_layouts({config, 3});
}

TEST_CASE("layout: an expert that no token chooses") {
  check_all_layouts({full_config(), 3, with_bias(5, -1e9f)});
}

TEST_CASE("layout: every token chooses the same expert, with and without a second one") {
  Config chunked = full_config();
  chunked.parallel.overlap_chunks = 2;
  check_all_layouts({chunked, 3, with_bias(2, 1e9f)});
  Config config = full_config();
  config.model.num_experts_per_tok = 1;
  check_all_layouts({config, 3, with_bias(7, 1e9f)});
}

TEST_CASE("layout: experts anywhere") {
  const Config config = tiny_config();
  const TinyResult expected = train_tiny(config, 4);
  for (const auto& [ranks, ep_size] : {std::pair{2, 2}, {3, 3}, {4, 2}, {8, 4}}) {
    for (int64_t variant = 0; variant < 3; ++variant) {
      moe::ExpertPlacement placement{.ranks = ep_size, .rank_of_expert_LE = {}};
      for (int64_t layer = 0; layer < 2; ++layer) {
        std::vector<int32_t>& rank_of = placement.rank_of_expert_LE.emplace_back();
        // scattered, in reverse, and all on the last rank but one expert
        for (int64_t e = 0; e < 8; ++e) {
          const int64_t rank = variant == 0   ? (e * 5 + layer) % ep_size
                               : variant == 1 ? (7 - e) * ep_size / 8
                                              : (e == 3 + layer ? 0 : ep_size - 1);
          rank_of.push_back(static_cast<int32_t>(rank));
        }
      }
      const TinyResult run = train_tiny(config, 4, ranks, ep_size, 1, placement);
      INFO(ranks << " ranks, ep_size " << ep_size << ", variant " << variant);
      CHECK(run.digest == expected.digest);
      CHECK(run.weights == expected.weights);
    }
  }
}
