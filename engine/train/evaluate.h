// Evaluation: every token of a set predicted once, dropless, the same bits on any layout.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/group.h"
#include "engine/data/eval_windows.h"
#include "engine/model/model.h"

namespace engine::train {

struct EvalResult {
  std::string set;
  double loss = 0;                       // nats per predicted token
  int64_t tokens = 0;                    // predicted
  int64_t bytes = 0;                     // of them bytes of text
  bool stopped = false;                  // a stop was requested (stop_request.h): the figures are those of a part
  std::vector<double> window_nats = {};  // summed over the tokens of each window
  std::vector<int64_t> window_tokens = {};
  std::vector<int64_t> tokens_per_expert = {};  // [MoE layers][experts]
  double bits_per_byte() const;
  double perplexity() const;
};

class Evaluator : private moe::RoutingObserver {
 public:
  // Passes of at most max_rows rows, for which the model's memory was planned.
  Evaluator(model::Model& model, comm::Group& world, int64_t seq_len, int64_t max_rows, bool document_mask);

  // Collective: each rank takes a part of the windows.
  EvalResult run(const std::string& name, const data::EvalWindows& windows);

 private:
  void restart() override {}
  void routed(size_t layer, const nn::Pass& pass, ConstTensor topk_idx_TK) override;
  bool stop_agreed();
  int64_t load(const data::EvalWindows& windows, int64_t first, int64_t count);
  model::Model& model_;
  comm::Group& world_;
  int64_t seq_len_, max_windows_;
  bool document_mask_;
  std::vector<int32_t> tokens_, targets_, positions_, document_starts_;
  std::vector<uint8_t> counted_;
  std::vector<float> losses_;
  std::vector<int64_t> tokens_per_expert_;  // of the set under way
};

}  // namespace engine::train
