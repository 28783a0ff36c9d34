#include "engine/train/trace_recorder.h"

#include <algorithm>
#include <utility>

namespace engine::train {
namespace {

TraceHeader header_of(Trainer& trainer, const std::vector<std::string>& sources) {
  const Config& config = trainer.config();
  TraceHeader header{.experts = config.model.num_experts,
                     .slots = config.model.num_experts_per_tok,
                     .seq_len = config.train.seq_len,
                     .sequences = config.sequences_per_step(),
                     .granules = config.train.granules,
                     .ranks = trainer.groups().world->size(),
                     .ep_size = trainer.groups().ep->size(),
                     .capacity_factor = config.model.router.capacity_factor.value_or(0),
                     .sources = sources};
  for (const moe::MoeLayer* layer : trainer.model().moe_layers()) header.layers.push_back(layer->layer());
  return header;
}

}  // namespace

TraceRecorder::TraceRecorder(Trainer& trainer, const std::vector<std::string>& sources,
                             std::function<size_t(int64_t)> source_of, std::vector<int64_t> steps, std::string path)
    : trainer_(trainer),
      source_of_(std::move(source_of)),
      steps_(std::move(steps)),
      path_(std::move(path)),
      header_(header_of(trainer, sources)) {
  if (steps_.empty()) return;
  choices_LTK_.resize(header_.layers.size() * static_cast<size_t>(header_.tokens() * header_.slots));
  // granule g belongs to rank floor(g * ranks / G), so ranks hold stretches of the batch
  const int64_t per_granule = header_.tokens() / header_.granules * header_.slots;
  for (int64_t r = 0; r <= header_.ranks; ++r) {
    begins_.push_back((r * header_.granules + header_.ranks - 1) / header_.ranks * per_granule);
  }
}

void TraceRecorder::begin_step(int64_t first_sample) {
  const int64_t step = trainer_.step() + 1;
  tracing_ = !header_.layers.empty() && std::find(steps_.begin(), steps_.end(), step) != steps_.end();
  if (!tracing_) return;
  first_sample_ = first_sample;
  before_ = rank_time(trainer_.model(), *trainer_.groups().ep);
  if (!begun_ && !path_.empty()) begin_trace(path_, header_, trainer_.step());
  begun_ = true;
}

void TraceRecorder::routed(size_t layer, const nn::Pass& pass, ConstTensor topk_idx_TK) {
  if (!tracing_ || !pass.training) return;
  const size_t begin =
      layer * static_cast<size_t>(begins_.back()) + static_cast<size_t>(pass.first_row * header_.slots);
  std::copy(topk_idx_TK.i32(), topk_idx_TK.i32() + topk_idx_TK.num_elements(), choices_LTK_.data() + begin);
}

void TraceRecorder::gather() {
  for (size_t l = 0; l < header_.layers.size(); ++l) {
    int32_t* layer = choices_LTK_.data() + l * static_cast<size_t>(begins_.back());
    trainer_.groups().world->all_gather_v(Tensor(layer, DType::i32, {begins_.back()}), begins_).wait();
  }
}

bool TraceRecorder::end_step(const StepResult& result) {
  if (!tracing_) return true;
  tracing_ = false;
  gather();
  const RankTime spent = rank_time(trainer_.model(), *trainer_.groups().ep) - before_;
  const double mine[3] = {spent.expert_seconds, spent.exchange_seconds, static_cast<double>(spent.bytes_sent)};
  std::vector<double> all(3 * static_cast<size_t>(header_.ranks));
  trainer_.groups()
      .world->all_gather(Tensor(all.data(), DType::f64, {3 * header_.ranks}), ConstTensor(mine, DType::f64, {3}))
      .wait();
  if (path_.empty()) return true;
  TraceStep step{.step = result.step, .seconds = result.seconds};
  for (size_t r = 0; r < all.size(); r += 3) {
    step.expert_seconds += all[r];
    step.exchange_seconds += all[r + 1];
    step.bytes_sent += static_cast<int64_t>(all[r + 2]);
  }
  for (int64_t n = 0; n < header_.sequences; ++n) {
    step.sources.push_back(static_cast<uint16_t>(source_of_(trainer_.order().sample(first_sample_ + n))));
  }
  step.choices_LTK.reserve(choices_LTK_.size());
  for (int32_t expert : choices_LTK_) step.choices_LTK.push_back(static_cast<uint16_t>(expert));  // -1: kNotRouted
  return append_trace(path_, step);
}

}  // namespace engine::train
