// Sequences that grow token by token, several at once, each with its own length: keys and values of what was read stay.
//
// The logits of a sequence are the same bits whether it is alone or with others, and however its tokens were fed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/config/config.h"
#include "engine/model/model.h"

namespace engine::train {

class Decoder {
 public:
  // Sequences may have up to config.max_position_embeddings tokens. `max_rows`: of a pass, for which the model's memory
  // was planned; 0: the decoder plans it.
  Decoder(model::Model& model, const ModelConfig& config, int64_t num_sequences, int64_t max_rows = 0);

  // Makes `tokens` the whole of a sequence.
  void read(int64_t sequence, std::span<const int32_t> tokens);
  // One more token for each of some sequences.
  void advance(std::span<const int64_t> sequences, std::span<const int32_t> tokens);
  // After the last token of a sequence.
  std::span<const float> logits(int64_t sequence) const;

  int64_t length(int64_t sequence) const { return states_[static_cast<size_t>(sequence)].length; }

 private:
  struct State {
    int64_t length = 0;
    int32_t document_start = 0, last_token = 0;
  };
  // Positions of one more token; moves the state on.
  void append(State& state, int32_t token);
  void run(int64_t num_sequences, int64_t seq_len);

  model::Model& model_;
  int64_t capacity_, vocabulary_, max_rows_;
  std::vector<State> states_;
  std::vector<float> logits_;  // [sequences, V]
  // of one pass
  std::vector<int32_t> tokens_, positions_, document_starts_;
  std::vector<nn::KeptSequence> kept_;
};

}  // namespace engine::train
