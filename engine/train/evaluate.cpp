#include "engine/train/evaluate.h"

#include <algorithm>
#include <cmath>

#include "engine/core/error.h"
#include "engine/core/stop_request.h"
#include "engine/data/document_mask.h"

namespace engine::train {

double EvalResult::bits_per_byte() const {
  return bytes == 0 ? 0 : loss * static_cast<double>(tokens) / static_cast<double>(bytes) / std::log(2.0);
}

double EvalResult::perplexity() const {
  return std::exp(loss);
}

Evaluator::Evaluator(model::Model& model, comm::Group& world, int64_t seq_len, int64_t max_rows, bool document_mask)
    : model_(model), world_(world), seq_len_(seq_len), max_windows_(max_rows / seq_len), document_mask_(document_mask) {
  ENSURE(max_windows_ > 0, "memory for ", max_rows, " rows cannot hold a window of ", seq_len);
  const size_t rows = static_cast<size_t>(max_windows_ * seq_len);
  tokens_.resize(rows), targets_.resize(rows), positions_.resize(rows), document_starts_.resize(rows);
  counted_.resize(rows), losses_.resize(rows);
}

int64_t Evaluator::load(const data::EvalWindows& windows, int64_t first, int64_t count) {
  int64_t bytes = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = i * seq_len_;
    windows.read(first + i, tokens_.data() + row, targets_.data() + row);
    data::document_mask(tokens_.data() + row, seq_len_, document_mask_, positions_.data() + row,
                        document_starts_.data() + row);
    for (int64_t t = row; t < row + seq_len_; ++t) {
      const int32_t target = targets_[static_cast<size_t>(t)];
      counted_[static_cast<size_t>(t)] = target >= 0 ? 1 : 0;
      bytes += target >= 0 && target < data::kEndOfDocument ? 1 : 0;
    }
  }
  return bytes;
}

void Evaluator::routed(size_t layer, const nn::Pass&, ConstTensor topk_idx_TK) {
  const size_t experts = tokens_per_expert_.size() / model_.moe_layers().size();
  for (int64_t i = 0; i < topk_idx_TK.num_elements(); ++i) {
    const int32_t expert = topk_idx_TK.i32()[i];
    if (expert >= 0) ++tokens_per_expert_[layer * experts + static_cast<size_t>(expert)];
  }
}

bool Evaluator::stop_agreed() {
  int64_t wish = stop_requested() ? 1 : 0;
  world_.all_reduce_max(Tensor(&wish, DType::i64, {1})).wait();
  return wish != 0;
}

EvalResult Evaluator::run(const std::string& name, const data::EvalWindows& windows) {
  const int64_t ranks = world_.size(), rank = world_.rank();
  const int64_t begin = windows.count() * rank / ranks, end = windows.count() * (rank + 1) / ranks;
  const int64_t most = (windows.count() + ranks - 1) / ranks;
  EvalResult result{.set = name};
  result.window_nats.resize(static_cast<size_t>(windows.count()));  // each filled by one rank
  result.window_tokens.resize(static_cast<size_t>(windows.count()));
  tokens_per_expert_.assign(model_.moe_layers().size() * static_cast<size_t>(model_.num_experts()), 0);
  moe::RoutingObserver* other = model_.routing_observer();
  model_.observe_routing(this);
  for (int64_t pass_begin = 0; pass_begin < most && !result.stopped; pass_begin += max_windows_) {
    const int64_t first = std::min(begin + pass_begin, end), count = std::min(max_windows_, end - first);
    result.bytes += load(windows, first, count);
    nn::Pass pass{.num_sequences = count,
                  .seq_len = seq_len_,
                  .positions = positions_.data(),
                  .document_starts = document_starts_.data(),
                  .counted = counted_.data()};
    const int64_t T = pass.num_rows();
    model_.begin_pass(pass, ConstTensor(tokens_.data(), DType::i32, {T}),
                      ConstTensor(targets_.data(), DType::i32, {T}));
    model_.forward(pass);
    model_.loss(pass, Tensor(losses_.data(), DType::f32, {T}));
    for (int64_t t = 0; t < T; ++t) {
      const size_t row = static_cast<size_t>(t), window = static_cast<size_t>(first + t / seq_len_);
      result.window_tokens[window] += counted_[row];
      result.window_nats[window] += static_cast<double>(losses_[row]);
    }
    result.stopped = stop_agreed();
  }
  model_.observe_routing(other);
  const int64_t counts = static_cast<int64_t>(tokens_per_expert_.size());
  world_.all_reduce_sum(Tensor(tokens_per_expert_.data(), DType::i64, {counts})).wait();
  result.tokens_per_expert = tokens_per_expert_;
  world_.all_reduce_sum(Tensor(result.window_nats.data(), DType::f64, {windows.count()})).wait();
  world_.all_reduce_sum(Tensor(result.window_tokens.data(), DType::i64, {windows.count()})).wait();
  world_.all_reduce_sum(Tensor(&result.bytes, DType::i64, {1})).wait();
  for (int64_t tokens : result.window_tokens) result.tokens += tokens;
  for (double nats : result.window_nats) result.loss += nats;
  if (result.tokens > 0) result.loss /= static_cast<double>(result.tokens);
  return result;
}

}  // namespace engine::train
