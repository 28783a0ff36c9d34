// Whole training steps on a device beside the CPU's: in lockstep, running free, saved on one and resumed on the other.
#include "engine/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "engine/core/transfer.h"
#include "engine/train/evaluate.h"
#include "engine/train/trainer_checkpoint.h"
#include "tests/support/device.h"
#include "tests/support/memory_use.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_run.h"

namespace {

using namespace engine;
using test::tiny_config;

// A trainer on one rank.
struct Run {
  Run(const Config& config, Device device)
      : groups(comm::make_parallel_groups(comm::make_self_group(), 1)), trainer(config, groups, {}, device) {
    trainer.begin_digest();
  }
  train::StepResult step() {
    const Config& config = trainer.config();
    return trainer.train_step(trainer.step() * config.sequences_per_step(),
                              [&](int64_t sample, int32_t* tokens) { test::tiny_sample(config, sample, tokens); });
  }
  comm::ParallelGroups groups;
  train::Trainer trainer;
};

Tensor moment(float* first, int64_t count, Device device) {
  return Tensor(first, DType::f32, {count}, device);
}

void copy_state(train::Trainer& from, train::Trainer& to) {
  const auto& weights = from.store().all();
  for (size_t i = 0; i < weights.size(); ++i) copy(to.store().all()[i].weight, weights[i].weight);
  for (size_t i = 0; i < from.optimizer().slices().size(); ++i) {
    const train::OptimizerSlice &a = from.optimizer().slices()[i], &b = to.optimizer().slices()[i];
    copy(moment(b.exp_avg, b.count, Device::cuda), moment(a.exp_avg, a.count, Device::cpu));
    copy(moment(b.exp_avg_sq, b.count, Device::cuda), moment(a.exp_avg_sq, a.count, Device::cpu));
  }
  for (size_t l = 0; l < from.model().moe_layers().size(); ++l) {
    auto &a = from.model().moe_layers()[l]->expert_bias(), &b = to.model().moe_layers()[l]->expert_bias();
    if (a) b->values() = a->values();
    to.model().moe_layers()[l]->previous_counts() = from.model().moe_layers()[l]->previous_counts();
  }
  to.store().weights_changed();
}

// The first moments after a step that began from the same ones differ as the gradients do: by (1 - beta1) * clip times
// the difference. Relative to the gradient's norm, weight by weight; one that is far below the others' is held to them.
void check_gradients(train::Trainer& cpu, train::Trainer& cuda, double norm, double limit) {
  const OptimizerConfig& config = cpu.config().optim;
  const double factor = (1 - config.betas[0]) * std::min(1.0, config.grad_clip / (norm + 1e-6));
  for (size_t i = 0; i < cpu.optimizer().slices().size(); ++i) {
    const train::OptimizerSlice &a = cpu.optimizer().slices()[i], &b = cuda.optimizer().slices()[i];
    const HostCopy there(moment(b.exp_avg, b.count, Device::cuda));
    double squares = 0;
    for (int64_t j = 0; j < a.count; ++j) squares += std::pow(static_cast<double>(a.exp_avg[j] - there.f32()[j]), 2);
    INFO(a.parameter->spec.name, " at step ", cpu.step());
    double own = 0;
    for (size_t t = 0; t < cpu.table().entries().size(); ++t) {
      if (cpu.table().entries()[t].local == a.parameter) own = std::sqrt(cpu.optimizer().square_sums()[t]);
    }
    CHECK(std::sqrt(squares) / factor <= limit * std::max(own, 0.01 * norm));
  }
}

void check_lockstep(const Config& config, int64_t steps) {
  Run cpu(config, Device::cpu), cuda(config, Device::cuda);
  for (int64_t step = 0; step < steps; ++step) {
    copy_state(cpu.trainer, cuda.trainer);
    const train::StepResult here = cpu.step(), there = cuda.step();
    INFO("step ", step + 1);
    CHECK(there.loss == doctest::Approx(here.loss).epsilon(1e-5));
    CHECK(there.aux_loss == doctest::Approx(here.aux_loss).epsilon(1e-5));
    CHECK(there.z_loss == doctest::Approx(here.z_loss).epsilon(1e-5));
    CHECK(there.grad_norm == doctest::Approx(here.grad_norm).epsilon(1e-4));
    CHECK(cuda.trainer.tokens_per_expert() == cpu.trainer.tokens_per_expert());
    CHECK(cuda.trainer.dropped() == cpu.trainer.dropped());
    check_gradients(cpu.trainer, cuda.trainer, here.grad_norm, 1e-4);
  }
}

// Counts the choices it is shown, which have to be in host memory.
class ChoiceCounter : public moe::RoutingObserver {
 public:
  void restart() override { choices = 0; }
  void routed(size_t, const nn::Pass&, ConstTensor topk_idx_TK) override {
    const int32_t* idx = topk_idx_TK.i32();
    choices += std::count_if(idx, idx + topk_idx_TK.num_elements(), [](int32_t e) { return e >= 0 && e < 8; });
  }
  int64_t choices = 0;
};

struct Variant {
  const char* name;
  void (*change)(Config&);
};

const Variant kVariants[] = {
    {"one granule", [](Config& c) { c.train.granules = 1; }},
    {"passes of a part of a granule", [](Config& c) { c.train.micro_batch = 1; }},
    {"capacity, the larger weight first",
     [](Config& c) { c.model.router.capacity_factor = 1.0, c.model.router.drop_policy = "probs"; }},
    {"sigmoid scores, groups, expert bias, shared expert with a gate",
     [](Config& c) {
       c.model.scoring_func = "sigmoid", c.model.n_group = 4, c.model.topk_group = 2;
       c.model.router.bias_update_rate = 0.01, c.model.n_shared_experts = 1, c.model.shared_expert_gate = true;
     }},
    {"balance by sequence, jitter",
     [](Config& c) { c.model.router.aux_loss_scope = "sequence", c.model.router.jitter = 0.1; }},
    {"balance over the global batch, query and key norm",
     [](Config& c) { c.model.router.aux_loss_scope = "global", c.model.qk_norm = "head"; }},
    {"pooled loss, tied embeddings, biases, a dense layer",
     [](Config& c) {
       c.model.router.aux_loss_kind = "hf", c.model.tie_word_embeddings = true, c.model.attention_bias = true;
       c.model.first_k_dense_replace = 1;
     }},
};

// With every access checked on an emulated device a step takes seconds.
bool steps_are_slow() {
#if defined(SWITCHYARD_EMULATED)
  return emulation::checks_accesses();
#else
  return false;
#endif
}
int64_t few_steps() {
  return steps_are_slow() ? 1 : 2;
}
int64_t many_steps() {
  return steps_are_slow() ? 2 : 50;
}

}  // namespace

TEST_CASE("cuda: fifty steps in lockstep with the CPU") {
  check_lockstep(tiny_config(), many_steps());
}

TEST_CASE("cuda: steps of every kind of routing and layer in lockstep with the CPU") {
  for (const Variant& variant : kVariants) {
    INFO(std::string(variant.name));
    Config config = tiny_config();
    variant.change(config);
    check_lockstep(config, few_steps());
  }
}

TEST_CASE("cuda: training runs free to the CPU's loss, twice to the same bits, and for every pass of whole granules") {
  Config config = tiny_config();
  const int64_t some_steps = std::min<int64_t>(many_steps(), 10);
  Run cpu(config, Device::cpu), cuda(config, Device::cuda);
  std::string digest;
  double here = 0, there = 0, loss_then = 0;
  for (int64_t step = 1; step <= many_steps(); ++step) {
    here = cpu.step().loss, there = cuda.step().loss;
    if (step == some_steps) digest = cuda.trainer.digest(), loss_then = there;
  }
  CHECK(there == doctest::Approx(here).epsilon(1e-2));
#if defined(SWITCHYARD_EMULATED)
  const bool same_for_every_pass = true;
#else
  const bool same_for_every_pass =
      false;  // cuBLAS chooses its kernels, and so the order of sums, by the rows of a pass
#endif
  for (int64_t micro_batch : {tiny_config().train.micro_batch.value_or(0), int64_t{4}}) {
    if (micro_batch > 0) config.train.micro_batch = micro_batch;
    Run again(config, Device::cuda);
    double loss = 0;
    for (int64_t step = 0; step < some_steps; ++step) loss = again.step().loss;
    if (micro_batch == 0 || same_for_every_pass) {
      CHECK(again.trainer.digest() == digest);
    } else {
      MESSAGE("after " << some_steps << " steps, passes of another size change the loss by " << loss / loss_then - 1);
      CHECK(loss == doctest::Approx(loss_then).epsilon(1e-5));
    }
  }
}

namespace {

// How often the host waits in a step, after one that finds out how much there is to fetch.
int64_t waits_of_a_step(int64_t layers, int64_t micro_batch, bool capacity) {
  Config config = tiny_config();
  config.model.num_hidden_layers = layers, config.train.micro_batch = micro_batch;
  if (capacity) config.model.router.capacity_factor = 1.0;
  config.model.router.aux_loss_scope = "sequence", config.model.router.jitter = 0.1;
  Run run(config, Device::cuda);
  ChoiceCounter seen;
  run.trainer.model().observe_routing(&seen);
  run.step();
  const int64_t before = device_waits().count;
  run.step();
  CHECK(seen.choices == layers * 16 * 12 * 2);  // every token's, before drops
  return device_waits().count - before;
}

// A pass of evaluation, whose rows are not bounded by a capacity: memory may grow for it.
void evaluate_once(Run& run) {
  const Config& config = run.trainer.config();
  const int64_t S = config.train.seq_len, sequences = run.trainer.max_rows() / S;
  std::vector<int32_t> sample(static_cast<size_t>(S + 1)), tokens, positions;
  for (int64_t b = 0; b < sequences; ++b) {
    test::tiny_sample(config, b, sample.data());
    tokens.insert(tokens.end(), sample.begin(), sample.end() - 1);
    for (int32_t s = 0; s < S; ++s) positions.push_back(s);
  }
  const std::vector<int32_t> starts(tokens.size(), 0);
  nn::Pass pass{
      .num_sequences = sequences, .seq_len = S, .positions = positions.data(), .document_starts = starts.data()};
  run.trainer.model().begin_pass(pass, ConstTensor(tokens.data(), DType::i32, {sequences * S}));
  run.trainer.model().forward(pass);
}

}  // namespace

TEST_CASE("cuda: the host waits once for each layer with experts and pass, with a capacity only when a step ends") {
  const int64_t passes = 16 / 4;
  CHECK(waits_of_a_step(3, 4, false) - waits_of_a_step(2, 4, false) == passes);
  const int64_t waits = waits_of_a_step(1, 16, true);
  CHECK(waits <= 4);
  CHECK(waits_of_a_step(3, 4, true) == waits);
}

TEST_CASE("cuda: passes launched as graphs give the bits of passes queued one by one") {
  const Variant variants[] = {
      {"capacity by weight, expert bias",
       [](Config& c) { c.model.router.capacity_factor = 1.0, c.model.router.bias_update_rate = 0.01; }},
      {"capacity by position, balance over the global batch, tied embeddings, bf16",
       [](Config& c) {
         c.model.router.capacity_factor = 0.8, c.model.router.drop_policy = "position";
         c.model.router.aux_loss_scope = "global", c.model.tie_word_embeddings = true, c.train.precision = "bf16";
       }},
      {"capacity, balance by sequence, a shared expert",
       [](Config& c) {
         c.model.router.capacity_factor = 1.2, c.model.router.aux_loss_scope = "sequence", c.model.n_shared_experts = 1;
       }},
      {"no experts, parts of granules",
       [](Config& c) { c.model.num_experts = 0, c.model.intermediate_size = 40, c.train.micro_batch = 2; }},
  };
  for (const Variant& variant : variants) {
    INFO(std::string(variant.name));
    Config config = tiny_config();
    config.train.micro_batch = 4;
    variant.change(config);
    Run graphs(config, Device::cuda), calls(config, Device::cuda);
    calls.trainer.pass_graphs().stop();
    ChoiceCounter seen;
    const int64_t steps = steps_are_slow() ? 8 : 12, passes = 16 / *config.train.micro_batch;
    for (int64_t step = 0; step < steps; ++step) {
      if (step == 5) evaluate_once(graphs);
      if (step == 7) graphs.trainer.model().observe_routing(&seen);
      const train::StepResult a = graphs.step(), b = calls.step();
      CHECK(a.loss == b.loss);
      CHECK(a.aux_loss == b.aux_loss);
      CHECK(a.grad_norm == b.grad_norm);
      CHECK(a.recomputed == b.recomputed);
      INFO("step ", step + 1);
      REQUIRE(graphs.trainer.digest() == calls.trainer.digest());
      if (step >= 7 && config.model.num_experts > 0)
        CHECK(seen.choices == config.model.num_hidden_layers * 16 * 12 * 2);
    }
    CHECK(graphs.trainer.pass_graphs().launches() >= 2 * passes);
    CHECK(calls.trainer.pass_graphs().launches() == 0);
  }
}

TEST_CASE("cuda: a trainer takes the memory that was planned") {
  for (const auto& [precision, capacity] :
       {std::pair<const char*, std::optional<double>>{"fp32", {}}, {"bf16", {}}, {"fp32", 1.2}, {"bf16", 0.8}}) {
    INFO(precision, ", capacity factor ", capacity.value_or(0));
    Config config = tiny_config();
    config.train.precision = precision;
    config.model.router.capacity_factor = capacity;
    config.model.router.force = "uniform";  // rows beyond an even load would make room for themselves
    Run run(config, Device::cuda);
    run.step();
    const train::Layout layout{.device = Device::cuda, .element_bytes = config.train.precision == "bf16" ? 2 : 4};
    test::check_same_memory(train::plan_memory(config, layout), train::memory_in_use(run.trainer));
  }
}

TEST_CASE("cuda: steps in bf16 stay near the CPU's") {
  for (const Variant& variant : kVariants) {
    INFO(std::string(variant.name));
    Config config = tiny_config();
    variant.change(config);
    Run cpu(config, Device::cpu);
    config.train.precision = "bf16";
    Run cuda(config, Device::cuda);
    for (int64_t step = 0; step < few_steps(); ++step) {
      copy_state(cpu.trainer, cuda.trainer);
      const train::StepResult here = cpu.step(), there = cuda.step();
      CHECK(there.loss == doctest::Approx(here.loss).epsilon(1e-2));
      CHECK(there.grad_norm == doctest::Approx(here.grad_norm).epsilon(5e-2));
      CHECK(there.loss != here.loss);
    }
  }
}

TEST_CASE("cuda: a checkpoint goes from device to device without changing a bit") {
  const Config config = tiny_config();
  const test::TemporaryDirectory directory;
  Run cuda(config, Device::cuda);
  for (int i = 0; i < 3; ++i) cuda.step();
  const std::string saved =
      checkpoint::save_checkpoint(directory.path() + "/a", train::save_request(cuda.trainer), cuda.groups);
  Run cpu(config, Device::cpu), again(config, Device::cuda);
  train::restore_trainer(cpu.trainer, saved);
  const std::string from_cpu =
      checkpoint::save_checkpoint(directory.path() + "/b", train::save_request(cpu.trainer), cpu.groups);
  train::restore_trainer(again.trainer, from_cpu);
  for (size_t i = 0; i < cuda.trainer.store().all().size(); ++i) {
    const nn::Parameter &a = cuda.trainer.store().all()[i], &b = again.trainer.store().all()[i];
    const HostCopy before(a.weight), after(b.weight);
    CHECK(std::memcmp(before.f32(), after.f32(), static_cast<size_t>(a.elements) * 4) == 0);
  }
  CHECK(again.trainer.digest() == cuda.trainer.digest());
  const train::StepResult a = cuda.step(), b = again.step();
  CHECK(a.loss == b.loss);
  CHECK(a.grad_norm == b.grad_norm);
  CHECK(again.trainer.digest() == cuda.trainer.digest());
}
