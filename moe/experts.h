// The experts this rank holds: SwiGLU feed-forward networks over rows sorted by expert.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "engine/core/growing_buffer.h"
#include "engine/nn/packed_weight.h"
#include "engine/nn/parameters.h"
#include "moe/token_dispatcher.h"

namespace moe {

// Gradients of rows, shared by all layers: only one is in its backward at a time.
struct ExpertWorkspace {
  ExpertWorkspace(engine::Device device = engine::Device::cpu)  // NOLINT: {} is one on the CPU
      : dexpert_out(device), dactivation(device), dexpert_in(device) {}

  engine::GrowingBuffer dexpert_out, dactivation, dexpert_in;
  int64_t bytes() const { return dexpert_out.bytes() + dactivation.bytes() + dexpert_in.bytes(); }
};

class Experts {
 public:
  // Registers model.layers.{i}.mlp.experts.{e}.{gate,up}_proj.weight [F, D] and .down_proj.weight [D, F] for the
  // experts e of this rank, in increasing order.
  Experts(const engine::ModelConfig& config, int64_t layer, engine::nn::ParameterStore& store,
          const std::vector<int64_t>& experts);

  void reserve(int64_t rows, ExpertWorkspace& workspace);
  // Where dispatch puts the rows: valid until the next call.
  Tensor input(int64_t num_rows);
  // out_RD of the rows in input() that belong to a chunk; kept for backward.
  ConstTensor forward(const TokenDispatcher& rows, int64_t chunk);
  ConstTensor output() const { return output_view_; }
  // dexpert_in_RD of a chunk's rows from workspace.dexpert_out; weight gradients add.
  ConstTensor backward(const engine::nn::Pass& pass, const TokenDispatcher& rows, int64_t chunk,
                       ConstTensor dexpert_out_RD, ExpertWorkspace& workspace);
  int64_t bytes() const { return input_.bytes() + gate_.bytes() + up_.bytes() + activation_.bytes() + output_.bytes(); }
  int64_t bytes_of(int64_t rows) const {
    return rows * (2 * hidden_size_ + 3 * width_) * engine::dtype_bytes(storage_);
  }
  int64_t growths() const { return input_.growths() + gate_.growths(); }

 private:
  struct Projection {
    std::vector<engine::nn::Parameter*> parameters_e;
    std::vector<engine::nn::PackedWeight> packed_e;
    std::vector<ConstTensor> views_e;  // of what a product takes
    std::vector<engine::WeightGradient> gradients_e;
  };
  // The experts of a chunk and their rows.
  struct Part {
    int64_t first, count, first_row, rows;
  };
  static Part part_of(const TokenDispatcher& rows, int64_t chunk);
  void add(Projection& projection, const std::string& name, int64_t rows, int64_t columns, double deviation,
           int64_t layer);
  void product(Projection& projection, const TokenDispatcher& rows, const Part& part, ConstTensor x, Tensor y) const;
  void input_gradient(Projection& projection, const TokenDispatcher& rows, const Part& part, ConstTensor dy, Tensor dx,
                      bool accumulate) const;
  void weight_gradient(Projection& projection, const TokenDispatcher& rows, const Part& part, ConstTensor x,
                       ConstTensor dy, const engine::nn::Pass& pass) const;

  engine::nn::ParameterStore& store_;
  int64_t hidden_size_, width_;
  engine::DType storage_;  // of activations
  Projection gate_proj_, up_proj_, down_proj_;
  engine::GrowingBuffer input_, gate_, up_, activation_, output_;
  Tensor input_view_, output_view_;
};

}  // namespace moe
