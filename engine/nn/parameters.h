// ParameterStore: every weight of this rank, in two flat blocks (dense and expert), with gradients.
//
// Layers register weights in their constructors under the Hugging Face name; experts carry global numbers. After
// commit() weights and gradients have memory. Each weight begins at a multiple of kParameterBlock elements, so a
// block of that size belongs to one weight: hashes, norms and shards of optimizer states are cut there.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/core/buffer.h"
#include "engine/core/error.h"
#include "engine/core/gradient.h"

namespace engine::nn {

inline constexpr int64_t kParameterBlock = 4096;

enum class Init { normal, ones, zeros };

struct ParameterSpec {
  std::string name;
  std::vector<int64_t> dims;
  Init init = Init::normal;
  double deviation = 0.02;  // of Init::normal
  bool decays = true;       // weight decay applies
  bool is_expert = false;   // lives on the ranks of one expert_dp group only
  int64_t layer = -1;       // the block it belongs to; -1: outside of blocks
};

struct Parameter {
  ParameterSpec spec;
  int64_t begin = 0;  // first element in its flat block
  int64_t elements = 0;
  Tensor weight;            // f32
  WeightGradient gradient;  // see engine/core/gradient.h
  WeightGradient tied;      // a second chain into the same sum, for the embedding when the head is tied to it
  double bound = 0;         // largest |p| of granules in earlier steps as a power of two; 0: none yet. Sets the grid
  uint32_t max_bits = 0;    // of this step; on a GPU after fetch_max_bits()
};

// One of the two flat blocks.
struct ParameterBlock {
  int64_t elements = 0;             // a multiple of kParameterBlock
  Buffer weights;                   // f32
  Buffer bf16_weights;              // the same, where activations are bf16 and a product has asked for them
  Buffer chains;                    // f32, of every weight; empty where none outlives a kernel
  Buffer sums;                      // f64, empty with one granule per step
  std::vector<Parameter*> members;  // by `begin`

  // Elements [begin, end) of the step's gradient: of the exact sums, or of the chains with one granule per step.
  Tensor gradient(int64_t begin, int64_t end) const;
};

class ParameterStore {
 public:
  // Weights and gradients are f32 on that device; activations are stored there as f32, on a GPU also as bf16.
  explicit ParameterStore(Device device = Device::cpu, DType activations = DType::f32)
      : device_(device), activations_(activations) {
    ENSURE(activations == DType::f32 || device == Device::cuda, "activations in ", dtype_name(activations),
           " need a GPU");
  }
  Device device() const { return device_; }
  DType activations() const { return activations_; }
  // On a GPU: the weight as a product with operands of `dtype` takes it. All are converted at once after a change.
  ConstTensor as(DType dtype, const Parameter& parameter);

  // The reference stays valid.
  Parameter& add(ParameterSpec spec);
  // A second gradient of the same weight, kept apart until a step ends so that the order of passes cannot matter.
  void add_tied_gradient(Parameter& parameter);

  // Gives memory to everything: weights only for inference, gradients for `granules` per step otherwise. Where each
  // pass computes `whole_granules`, the chains of experts on a CPU live in the kernel that sums them and take none.
  void commit(int64_t granules, bool for_training, bool whole_granules = false);
  // Philox keyed by (seed, name, element).
  void initialize(uint64_t seed);

  ParameterBlock& dense() { return dense_; }
  ParameterBlock& expert() { return expert_; }
  std::deque<Parameter>& all() { return all_; }
  const std::deque<Parameter>& all() const { return all_; }
  Parameter* find(const std::string& name);

  // On a GPU gradients find their grids there and leave max_bits there: before a step's first pass, when the grids are
  // set, and after its last.
  void begin_gradients();
  void fetch_max_bits();

  // Changes whenever weights were written; layers that keep packed copies compare it.
  uint64_t version() const { return version_; }
  void weights_changed() { ++version_; }

  int64_t granules() const { return granules_; }

  // Memory of packed copies of these weights, whoever keeps them.
  void count_packed(int64_t bytes) { packed_bytes_ += bytes; }
  int64_t packed_bytes() const { return packed_bytes_; }

 private:
  std::deque<Parameter> all_;
  std::unordered_map<std::string, Parameter*> by_name_;
  ParameterBlock dense_, expert_;
  std::deque<Buffer> tied_chains_;
  Device device_;
  DType activations_;
  Buffer max_bits_, grids_there_;  // u32 and f64, in the order of all_; on a GPU
  std::vector<double> grids_;
  uint64_t version_ = 1, bf16_version_ = 0;
  int64_t granules_ = 1, packed_bytes_ = 0;
};

}  // namespace engine::nn
