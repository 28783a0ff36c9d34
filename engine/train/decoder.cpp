#include "engine/train/decoder.h"

#include <algorithm>

#include "engine/core/error.h"
#include "engine/data/tokenizer.h"

namespace engine::train {
namespace {

constexpr int64_t kMaxRows = 512;  // of a pass over a context; no bit depends on it

}  // namespace

Decoder::Decoder(model::Model& model, const ModelConfig& config, int64_t num_sequences, int64_t max_rows)
    : model_(model),
      capacity_(config.max_position_embeddings),
      vocabulary_(config.vocabulary()),
      max_rows_(max_rows > 0 ? max_rows : std::max(num_sequences, std::min(kMaxRows, capacity_))),
      states_(static_cast<size_t>(num_sequences)),
      logits_(static_cast<size_t>(num_sequences * config.vocabulary())) {
  ENSURE(num_sequences <= max_rows_, num_sequences, " sequences do not fit a pass of ", max_rows_, " rows");
  if (max_rows == 0) model_.plan(max_rows_);
  model_.reserve_keys(num_sequences, capacity_);
}

void Decoder::append(State& state, int32_t token) {
  // a token that ends a document belongs to it; the next one begins another
  if (state.length > 0 && state.last_token == data::kEndOfDocument) {
    state.document_start = static_cast<int32_t>(state.length);
  }
  tokens_.push_back(token);
  positions_.push_back(static_cast<int32_t>(state.length) - state.document_start);
  document_starts_.push_back(state.document_start);
  state.last_token = token;
  ++state.length;
}

void Decoder::run(int64_t num_sequences, int64_t seq_len) {
  nn::Pass pass{.num_sequences = num_sequences,
                .seq_len = seq_len,
                .kept = kept_.data(),
                .positions = positions_.data(),
                .document_starts = document_starts_.data()};
  const int64_t rows = num_sequences * seq_len;
  model_.begin_pass(pass, ConstTensor(tokens_.data(), DType::i32, {rows}));
  model_.forward(pass);
  if (seq_len > 1 || num_sequences == 1) {
    float* logits = logits_.data() + kept_[0].slot * vocabulary_;
    return model_.logits(pass, rows - 1, Tensor(logits, DType::f32, {1, vocabulary_}));
  }
  // neighbouring slots share one product
  for (int64_t begin = 0, end; begin < num_sequences; begin = end) {
    const auto slot = [&](int64_t b) { return kept_[static_cast<size_t>(b)].slot; };
    for (end = begin + 1; end < num_sequences && slot(end) == slot(end - 1) + 1;) ++end;
    model_.logits(pass, begin,
                  Tensor(logits_.data() + slot(begin) * vocabulary_, DType::f32, {end - begin, vocabulary_}));
  }
}

void Decoder::read(int64_t sequence, std::span<const int32_t> tokens) {
  ENSURE(!tokens.empty() && std::ssize(tokens) <= capacity_, "a sequence of ", tokens.size(),
         " tokens has no place in ", capacity_);
  State& state = states_[static_cast<size_t>(sequence)];
  state = {};
  for (size_t begin = 0; begin < tokens.size(); begin += static_cast<size_t>(max_rows_)) {
    const size_t count = std::min<size_t>(static_cast<size_t>(max_rows_), tokens.size() - begin);
    tokens_.clear(), positions_.clear(), document_starts_.clear();
    kept_.assign(1, {.slot = sequence, .position = state.length});
    for (int32_t token : tokens.subspan(begin, count)) append(state, token);
    run(1, static_cast<int64_t>(count));
  }
}

void Decoder::advance(std::span<const int64_t> sequences, std::span<const int32_t> tokens) {
  if (sequences.empty()) return;
  tokens_.clear(), positions_.clear(), document_starts_.clear(), kept_.clear();
  for (size_t i = 0; i < sequences.size(); ++i) {
    State& state = states_[static_cast<size_t>(sequences[i])];
    ENSURE(state.length < capacity_, "sequence ", sequences[i], " is full");
    kept_.push_back({.slot = sequences[i], .position = state.length});
    append(state, tokens[i]);
  }
  run(std::ssize(sequences), 1);
}

std::span<const float> Decoder::logits(int64_t sequence) const {
  return std::span(logits_).subspan(static_cast<size_t>(sequence * vocabulary_), static_cast<size_t>(vocabulary_));
}

}  // namespace engine::train
