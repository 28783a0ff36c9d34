#include "engine/train/trainer.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "engine/checkpoint/weights_hash.h"
#include "engine/core/error.h"
#include "engine/train/lr_schedule.h"

namespace engine::train {
namespace {

// Memory is given to the store between registering weights (the model) and counting them (the table).
nn::ParameterStore& committed(nn::ParameterStore& store, const Config& config) {
  store.commit(config.train.granules, true, config.passes_hold_whole_granules());
  store.initialize(static_cast<uint64_t>(config.seed));
  return store;
}

DType activation_storage(const Config& config, Device device) {
  if (config.train.precision == "fp32") return DType::f32;
  if (device == Device::cuda) return DType::bf16;
  throw Error(ExitCode::environment, "train.precision is \"bf16\", which needs a GPU; use --device cuda, or fp32");
}

}  // namespace

Trainer::Trainer(const Config& config, comm::ParallelGroups& groups, moe::ExpertPlacement placement, Device device)
    : config_(config),
      groups_(groups),
      store_(device, activation_storage(config, device)),
      model_(config_, store_, *groups.ep, std::move(placement)),
      table_(committed(store_, config_), groups),
      optimizer_(config_.optim, store_, table_, groups),
      grid_(table_, config_.train.granules),
      schedule_(config_, groups.world->rank(), groups.world->size(), groups.ep->size()),
      pass_graphs_(config_, device, groups.world->size()),
      spikes_(config_.train),
      total_steps_(scheduled_steps(config_)) {
  model_.plan(schedule_.max_rows());
  pass_losses_.reserve(static_cast<size_t>(schedule_.num_passes()));
  granule_losses_.resize(static_cast<size_t>(config_.train.granules));
  tokens_per_expert_.resize(model_.moe_layers().size() * static_cast<size_t>(config_.model.num_experts));
  dropped_.resize(model_.moe_layers().size());
  aux_losses_.resize(model_.moe_layers().size());
  z_losses_.resize(model_.moe_layers().size());
  layer_done_ = [this](int64_t layer) { optimizer_.start_reduction(layer); };
}

void Trainer::begin_digest() {
  digest_.begin(checkpoint::hash_weights(store_, *groups_.ep));
}

void Trainer::resume(int64_t step, const std::string& digest) {
  step_ = step;
  digest_.resume(digest);
  store_.weights_changed();
}

StepResult Trainer::train_step(int64_t first_sample, const SampleReader& read_sample) {
  const double start = monotonic_seconds();
  activity().step = step_ + 1;
  activity().in_step = true;
  StepResult result;
  const SampleReader read = [this, &read_sample](int64_t place, int32_t* tokens) {
    read_sample(order_.sample(place), tokens);
  };
  compute_gradients(first_sample, read, result.phases);
  if (!grid_.end_step(*groups_.world)) {
    result.recomputed = 1;
    optimizer_.clear_gradients();
    compute_gradients(first_sample, read, result.phases);
    ENSURE(grid_.end_step(*groups_.world), "the gradient grid does not hold after it was widened");
  }
  Profiler& profiler = model_.profiler();
  const double computed = monotonic_seconds();
  {
    Profiler::Scope time(profiler, "reduce");
    optimizer_.reduce_gradients();
    result.grad_norm = optimizer_.gradient_norm();
  }
  const double reduced = monotonic_seconds();
  result.phases.comm += reduced - computed;
  collect_losses(result);
  collect_balance(result);
  result.loss_z = loss_history_.add(result.loss);
  result.grad_norm_z = norm_history_.add(result.grad_norm);
  result.spike = spikes_.decide(result.loss_z, result.grad_norm_z);
  result.step = step_ + 1;
  if (result.spike == SpikeAction::rollback) {
    optimizer_.clear_gradients();
    activity().in_step = false;
    return result;
  }
  ++step_;
  result.lr = learning_rate(config_.optim, step_ - 1, total_steps_);
  update(result);
  digest_.add_step(step_, result.loss, result.grad_norm, optimizer_.square_sums(), tokens_per_expert_);
  activity().in_step = false;
  const double end = monotonic_seconds();
  result.phases.optimizer = end - reduced;
  result.seconds = end - start;
  return result;
}

void Trainer::update(const StepResult& result) {
  Profiler::Scope time(model_.profiler(), "optimizer");
  if (result.spike == SpikeAction::skip) {
    optimizer_.clear_gradients();
    digest_.add_event("skipped");
    return;
  }
  finish_balance();
  // PyTorch's clip_grad_norm_: max_norm / (norm + 1e-6), never above 1
  const double limit = config_.optim.grad_clip;
  const double clip = limit > 0 ? std::min(1.0, limit / (result.grad_norm + 1e-6)) : 1.0;
  optimizer_.update(step_, result.lr, clip);
}

void Trainer::compute_gradients(int64_t first_sample, const SampleReader& read, StepPhases& phases) {
  // The time since `begin` goes to a phase, but what was spent on dispatch in it goes to comm.
  const Profiler& profiler = model_.profiler();
  double begin = monotonic_seconds(), dispatch = profiler.seconds("dispatch");
  const auto end_phase = [&](double& phase) {
    const double now = monotonic_seconds(), dispatched = profiler.seconds("dispatch") - dispatch;
    phase += now - begin - dispatched;
    phases.comm += dispatched;
    begin = now, dispatch += dispatched;
  };
  grid_.begin_step();
  store_.begin_gradients();
  std::fill(granule_losses_.begin(), granule_losses_.end(), 0.0);
  pass_losses_.clear();
  model_.begin_step();
  if (pass_graphs_.apply()) store_.weights_changed();  // so that the first pass converts them in every step
  for (int64_t index = 0; index < schedule_.num_passes(); ++index) {
    begin = monotonic_seconds();
    PassSchedule::Batch batch = schedule_.load(index, step_, first_sample, read);
    model_.begin_pass(batch.pass, batch.tokens_T, batch.targets_T);
    end_phase(phases.data);
    const nn::Pass& pass = batch.pass;
    const Tensor losses_T(model_.place_losses(pass.num_rows()), DType::f32, {pass.num_rows()}, store_.device());
    const bool last = index + 1 == schedule_.num_passes();
    const auto queue = [&] {
      model_.forward(pass);
      end_phase(phases.forward);
      model_.loss(pass, losses_T);
      // one rank reduces nothing
      model_.backward(pass, last && groups_.world->size() > 1 ? layer_done_ : nullptr);
    };
    pass_graphs_.run(index, pass_key(losses_T), std::ref(queue));  // by reference: nothing from the heap
    end_phase(phases.backward);
    const GranuleRows& granules = pass.granules;
    pass_losses_.push_back(
        {losses_T.f32(), pass.num_rows(), granules.count, granules.count > 0 ? pass.granule_numbers[0] : 0});
  }
  model_.end_step();
  add_losses();
  store_.fetch_max_bits();
}

PassGraphs::Key Trainer::pass_key(const Tensor& losses_T) {
  const bool global = !model_.moe_layers().empty() && !model_.moe_layers()[0]->previous_counts().empty();
  return {std::bit_cast<int64_t>(losses_T.data), std::bit_cast<int64_t>(model_.routing_observer()), global};
}

void Trainer::add_losses() {
  for (const PassLosses& pass : pass_losses_) {
    const float* losses = model_.losses(pass.placed);
    for (int64_t t = 0; t < pass.rows; ++t) {  // a pass has as many rows of each of its granules
      const int64_t granule = pass.first_granule + t * pass.granules / pass.rows;
      granule_losses_[static_cast<size_t>(granule)] += static_cast<double>(losses[t]);
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

void Trainer::collect_balance(StepResult& result) {
  const int64_t G = config_.train.granules, E = config_.model.num_experts;
  const double layers = static_cast<double>(model_.moe_layers().size());
  const double sequences =
      config_.model.router.aux_loss_scope == "sequence" ? static_cast<double>(config_.sequences_per_granule()) : 1.0;
  const bool pooled = config_.model.router.aux_loss_kind == "hf";  // one loss of all layers
  sum_statistics();
  for (size_t l = 0; l < model_.moe_layers().size(); ++l) {
    moe::LoadStatistics& load = model_.moe_layers()[l]->statistics();
    aux_losses_[l] = z_losses_[l] = 0;
    for (int64_t g = 0; g < G; ++g) {
      const size_t at = static_cast<size_t>(g);
      const double tokens = static_cast<double>(load.counted_G[at]);
      if (l == 0 || !pooled) aux_losses_[l] += model_.aux_loss(l, g) / sequences / static_cast<double>(G);
      z_losses_[l] += tokens > 0 ? load.z_sums_G[at] / tokens / static_cast<double>(G) : 0.0;
    }
    if (pooled && l > 0) aux_losses_[l] = aux_losses_[0];
    result.aux_loss += aux_losses_[l] / layers;
    result.z_loss += z_losses_[l] / layers;
    const std::span<int64_t> counts{tokens_per_expert_.data() + l * static_cast<size_t>(E), static_cast<size_t>(E)};
    for (size_t e = 0; e < counts.size(); ++e) {
      counts[e] = 0;
      for (int64_t g = 0; g < G; ++g) counts[e] += load.tokens_per_expert_GE[static_cast<size_t>(g * E) + e];
    }
    dropped_[l] = 0;
    for (int64_t dropped : load.dropped_G) dropped_[l] += dropped;
  }
}

// What the balance of the next step follows from.
void Trainer::finish_balance() {
  const size_t E = static_cast<size_t>(config_.model.num_experts);
  for (size_t l = 0; l < model_.moe_layers().size(); ++l) {
    model_.moe_layers()[l]->finish_step({tokens_per_expert_.data() + l * E, E});
  }
}

// The statistics of all layers in one collective for counts and one for sums, to which each granule's owner alone gives
// what is not zero.
void Trainer::sum_statistics() {
  if (groups_.world->size() == 1) return;
  counts_of_layers_.clear();
  sums_of_layers_.clear();
  const auto join = [](auto& all) { return [&](auto& part) { all.insert(all.end(), part.begin(), part.end()); }; };
  for (moe::MoeLayer* layer : model_.moe_layers()) {
    layer->statistics().each_count(join(counts_of_layers_));
    layer->statistics().each_sum(join(sums_of_layers_));
  }
  const auto sum = [&](auto& values, DType dtype) {
    groups_.world->all_reduce_sum(Tensor(values.data(), dtype, {static_cast<int64_t>(values.size())})).wait();
  };
  sum(counts_of_layers_, DType::i64);
  sum(sums_of_layers_, DType::f64);
  auto next_count = counts_of_layers_.begin();
  auto next_sum = sums_of_layers_.begin();
  const auto divide = [](auto& next) {
    return [&](auto& part) {
      std::copy(next, next + static_cast<int64_t>(part.size()), part.begin());
      next += static_cast<int64_t>(part.size());
    };
  };
  for (moe::MoeLayer* layer : model_.moe_layers()) {
    layer->statistics().each_count(divide(next_count));
    layer->statistics().each_sum(divide(next_sum));
  }
}

}  // namespace engine::train
