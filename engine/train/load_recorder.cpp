#include "engine/train/load_recorder.h"

#include <algorithm>
#include <utility>

namespace engine::train {

std::vector<std::string> source_names(const data::Corpus& corpus) {
  std::vector<std::string> names;
  for (const data::SourceSplit& source : corpus.sources) names.push_back(source.train.name);
  return names;
}

LoadRecorder::LoadRecorder(Trainer& trainer, std::vector<std::string> sources, std::function<size_t(int64_t)> source_of)
    : trainer_(trainer),
      sources_(std::move(sources)),
      source_of_(std::move(source_of)),
      layers_(trainer.model().moe_layers().size()),
      experts_(static_cast<size_t>(trainer.config().model.num_experts)),
      step_by_source_(layers_ * sources_.size() * experts_),
      by_source_(step_by_source_.size()),
      step_rows_(kRowSteps * layers_),
      all_rows_(step_rows_.size() * static_cast<size_t>(trainer.groups().world->size())) {
  begin_window();
  trainer.model().observe_routing(this);
}

LoadRecorder::~LoadRecorder() {
  trainer_.model().observe_routing(nullptr);
}

void LoadRecorder::begin_window() {
  window_ = {.ep_size = trainer_.groups().ep->size(), .sources = sources_};
  window_.ranks.resize(static_cast<size_t>(trainer_.groups().world->size()));
  for (RankWindow& rank : window_.ranks) rank.rows.resize(layers_);
  for (moe::MoeLayer* moe : trainer_.model().moe_layers()) {
    LayerWindow& layer = window_.layers.emplace_back();
    layer.layer = moe->layer();
    layer.tokens_per_expert.resize(experts_);
    layer.tokens_by_source.assign(sources_.size(), std::vector<int64_t>(experts_));
    layer.probability.resize(experts_);
    layer.mean_overload = layer.largest_overload = 0;
  }
  std::fill(by_source_.begin(), by_source_.end(), 0);
  spent_ = {};
}

void LoadRecorder::begin_step(int64_t first_sample) {
  first_sample_ = first_sample;
  before_ = rank_time(trainer_.model(), *trainer_.groups().ep);
}

void LoadRecorder::trainer_replaced() {
  trainer_.model().observe_routing(this);
}

void LoadRecorder::restart() {
  std::fill(step_by_source_.begin(), step_by_source_.end(), 0);
}

void LoadRecorder::routed(size_t layer, const nn::Pass& pass, ConstTensor topk_idx_TK) {
  if (trace_ != nullptr) trace_->routed(layer, pass, topk_idx_TK);
  if (!pass.training || sources_.empty()) return;
  const int64_t choices = pass.seq_len * topk_idx_TK.columns(), first = first_sample_ + pass.first_row / pass.seq_len;
  for (int64_t b = 0; b < pass.num_sequences; ++b) {
    const size_t source = source_of_(trainer_.order().sample(first + b));
    int64_t* counts = step_by_source_.data() + (layer * sources_.size() + source) * experts_;
    const int32_t* idx = topk_idx_TK.i32() + b * choices;
    for (int64_t i = 0; i < choices; ++i) {
      if (idx[i] >= 0) ++counts[idx[i]];
    }
  }
}

void LoadRecorder::end_step(const StepResult& result) {
  if (window_.first_step == 0) window_.first_step = result.step;
  window_.last_step = result.step;
  window_.seconds += result.seconds;
  const RankTime step = rank_time(trainer_.model(), *trainer_.groups().ep) - before_;
  spent_.bytes_sent += step.bytes_sent;
  spent_.expert_seconds += step.expert_seconds;
  spent_.exchange_seconds += step.exchange_seconds;
  spent_.wait_seconds += step.wait_seconds;
  for (size_t i = 0; i < by_source_.size(); ++i) by_source_[i] += step_by_source_[i];
  for (size_t l = 0; l < layers_; ++l) {
    const moe::LoadStatistics& counted = trainer_.model().moe_layers()[l]->statistics();
    LayerWindow& layer = window_.layers[l];
    for (size_t e = 0; e < experts_; ++e) {
      layer.tokens_per_expert[e] += trainer_.tokens_per_expert()[l * experts_ + e];
    }
    for (size_t g = 0; g < counted.counted_G.size(); ++g) {
      layer.tokens += counted.counted_G[g];
      layer.router_entropy += counted.entropy_sums_G[g];
      layer.first_weight += counted.first_weight_sums_G[g];
      for (size_t e = 0; e < experts_; ++e) layer.probability[e] += counted.probability_sums_GE[g * experts_ + e];
    }
    layer.dropped += trainer_.dropped()[l];
    layer.aux_loss += trainer_.aux_losses()[l];
    layer.z_loss += trainer_.z_losses()[l];
    step_rows_[row_steps_ * layers_ + l] = counted.rows;
  }
  if (++row_steps_ == kRowSteps) fold_rows();
}

// The rows of every rank in the steps not folded yet.
void LoadRecorder::fold_rows() {
  const int64_t each = static_cast<int64_t>(row_steps_ * layers_);
  const size_t ranks = window_.ranks.size();
  if (each > 0) {
    trainer_.groups()
        .world
        ->all_gather(Tensor(all_rows_.data(), DType::i64, {each * static_cast<int64_t>(ranks)}),
                     ConstTensor(step_rows_.data(), DType::i64, {each}))
        .wait();
  }
  for (size_t i = 0; i < row_steps_; ++i) {
    for (size_t l = 0; l < layers_; ++l) {
      int64_t largest = 0, sum = 0;
      for (size_t r = 0; r < ranks; ++r) {
        const int64_t rows = all_rows_[(r * row_steps_ + i) * layers_ + l];
        window_.ranks[r].rows[l] += rows;
        largest = std::max(largest, rows);
        sum += rows;
      }
      const double overload =
          sum > 0 ? static_cast<double>(largest) * static_cast<double>(ranks) / static_cast<double>(sum) : 1;
      window_.layers[l].mean_overload += overload;  // a sum until the window is finished
      window_.layers[l].largest_overload = std::max(window_.layers[l].largest_overload, overload);
    }
  }
  row_steps_ = 0;
}

void LoadRecorder::collect_sources() {
  trainer_.groups()
      .world->all_reduce_sum(Tensor(by_source_.data(), DType::i64, {static_cast<int64_t>(by_source_.size())}))
      .wait();
  auto next = by_source_.begin();
  for (LayerWindow& layer : window_.layers) {
    for (std::vector<int64_t>& source : layer.tokens_by_source) {
      std::copy(next, next + static_cast<int64_t>(experts_), source.begin());
      next += static_cast<int64_t>(experts_);
    }
  }
}

void LoadRecorder::collect_ranks() {
  const double mine[4] = {static_cast<double>(spent_.bytes_sent), spent_.expert_seconds, spent_.exchange_seconds,
                          spent_.wait_seconds};
  std::vector<double> all(4 * window_.ranks.size());
  trainer_.groups()
      .world
      ->all_gather(Tensor(all.data(), DType::f64, {static_cast<int64_t>(all.size())}),
                   ConstTensor(mine, DType::f64, {4}))
      .wait();
  for (size_t r = 0; r < window_.ranks.size(); ++r) {
    RankWindow& rank = window_.ranks[r];
    rank.bytes_sent = static_cast<int64_t>(all[4 * r]);
    rank.expert_seconds = all[4 * r + 1];
    rank.exchange_seconds = all[4 * r + 2];
    rank.wait_seconds = all[4 * r + 3];
  }
}

LoadWindow LoadRecorder::finish() {
  fold_rows();
  collect_sources();
  collect_ranks();
  const double steps = static_cast<double>(window_.steps());
  for (size_t l = 0; l < layers_; ++l) {
    LayerWindow& layer = window_.layers[l];
    const double tokens = static_cast<double>(std::max<int64_t>(1, layer.tokens));
    layer.router_entropy /= tokens;
    layer.first_weight /= tokens;
    for (double& p : layer.probability) p /= tokens;
    layer.aux_loss /= steps;
    layer.z_loss /= steps;
    layer.mean_overload /= steps;
    if (std::optional<moe::ExpertBias>& bias = trainer_.model().moe_layers()[l]->expert_bias()) {
      layer.expert_bias.assign(bias->values().begin(), bias->values().end());
    }
  }
  LoadWindow finished = std::move(window_);
  begin_window();
  return finished;
}

}  // namespace engine::train
