#include "engine/train/trainer.h"

#include <algorithm>

#include "engine/checkpoint/weights_hash.h"
#include "engine/core/error.h"
#include "engine/train/lr_schedule.h"

namespace engine::train {
namespace {

// Memory is given to the store between registering weights (the model) and counting them (the table).
nn::ParameterStore& committed(nn::ParameterStore& store, const Config& config) {
  store.commit(config.train.granules, true);
  store.initialize(static_cast<uint64_t>(config.seed));
  return store;
}

}  // namespace

Trainer::Trainer(const Config& config, comm::ParallelGroups& groups)
    : config_(config),
      groups_(groups),
      model_(config_, store_, *groups.ep),
      table_(committed(store_, config_), groups),
      optimizer_(config_.optim, store_, table_, groups),
      grid_(table_, config_.train.granules),
      schedule_(config_, groups.world->rank(), groups.world->size()),
      total_steps_(scheduled_steps(config_)) {
  model_.plan(schedule_.max_rows());
  losses_T_.resize(static_cast<size_t>(schedule_.max_rows()));
  granule_losses_.resize(static_cast<size_t>(config_.train.granules));
  tokens_per_expert_.resize(model_.moe_layers().size() * static_cast<size_t>(config_.model.num_experts));
  dropped_.resize(model_.moe_layers().size());
}

void Trainer::begin_digest() {
  digest_.begin(checkpoint::hash_weights(store_, *groups_.world, *groups_.ep, *groups_.expert_dp));
}

void Trainer::resume(int64_t step, const std::string& digest) {
  step_ = step;
  digest_.resume(digest);
  store_.weights_changed();
}

StepResult Trainer::train_step(int64_t first_sample, const SampleReader& read) {
  const double start = monotonic_seconds();
  StepResult result;
  compute_gradients(first_sample, read);
  if (!grid_.end_step(*groups_.world)) {
    result.recomputed = 1;
    optimizer_.clear_gradients();
    compute_gradients(first_sample, read);
    ENSURE(grid_.end_step(*groups_.world), "the gradient grid does not hold after it was widened");
  }
  Profiler& profiler = model_.profiler();
  {
    Profiler::Scope time(profiler, "reduce");
    optimizer_.reduce_gradients();
    result.grad_norm = optimizer_.gradient_norm();
  }
  collect_losses(result);
  collect_balance(result);
  Profiler::Scope time(profiler, "optimizer");
  result.lr = learning_rate(config_.optim, step_, total_steps_);
  // PyTorch's clip_grad_norm_: max_norm / (norm + 1e-6), never above 1
  const double limit = config_.optim.grad_clip;
  const double clip = limit > 0 ? std::min(1.0, limit / (result.grad_norm + 1e-6)) : 1.0;
  ++step_;
  optimizer_.update(step_, result.lr, clip);
  result.step = step_;
  digest_.add_step(step_, result.loss, result.grad_norm, optimizer_.square_sums(), tokens_per_expert_);
  result.seconds = monotonic_seconds() - start;
  return result;
}

void Trainer::compute_gradients(int64_t first_sample, const SampleReader& read) {
  grid_.begin_step();
  std::fill(granule_losses_.begin(), granule_losses_.end(), 0.0);
  for (moe::MoeLayer* layer : model_.moe_layers()) layer->statistics().clear();
  for (int64_t index = 0; index < schedule_.num_passes(); ++index) {
    PassSchedule::Batch batch = schedule_.load(index, step_, first_sample, read);
    const int64_t T = batch.pass.num_rows();
    model_.forward(batch.pass, batch.tokens_T);
    model_.loss(batch.pass, batch.targets_T, Tensor(losses_T_.data(), DType::f32, {T}));
    model_.backward(batch.pass, batch.tokens_T);
    for (int64_t g = 0; g < batch.pass.granules.count; ++g) {
      double& chain = granule_losses_[static_cast<size_t>(batch.pass.granule_numbers[g])];
      for (int64_t t = batch.pass.granules.offsets[g]; t < batch.pass.granules.offsets[g + 1]; ++t) {
        chain += static_cast<double>(losses_T_[static_cast<size_t>(t)]);
      }
    }
  }
}

void Trainer::collect_losses(StepResult& result) {
  // each granule has one owner, the others add zero
  const int64_t G = config_.train.granules;
  groups_.world->all_reduce_sum(Tensor(granule_losses_.data(), DType::f64, {G})).wait();
  double total = 0;
  for (double loss : granule_losses_) total += loss;
  result.loss = total / static_cast<double>(config_.sequences_per_step() * config_.train.seq_len);
}

}  // namespace engine::train
