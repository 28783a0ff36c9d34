// One transformer block around the residual stream: norm, attention, add, norm, FFN or experts, add.
#pragma once

#include <memory>
#include <string>

#include "engine/config/config.h"
#include "engine/nn/layer.h"
#include "engine/nn/parameters.h"

namespace engine::model {

class Block {
 public:
  Block(const ModelConfig& config, int64_t layer, nn::ParameterStore& store, std::unique_ptr<nn::Layer> attention,
        std::unique_ptr<nn::Layer> ffn);

  void plan(ArenaPlan& plan, int64_t max_rows);
  // y = m + ffn(norm(m)),  m = x + attention(norm(x))
  void forward(const nn::Pass& pass, ConstTensor x_TD, Tensor y_TD);
  // dresidual holds dy before and dx afterwards.
  void backward(const nn::Pass& pass, ConstTensor x_TD, Tensor dresidual_TD);

 private:
  std::string name_;
  float eps_;
  int64_t hidden_size_;
  nn::Parameter* input_norm_;
  nn::Parameter* ffn_norm_;
  std::unique_ptr<nn::Layer> attention_, ffn_;
  Slot attention_input_, attention_rstd_, middle_, ffn_input_, ffn_rstd_, dinput_;
};

}  // namespace engine::model
