// Activation memory, planned before the first step: one block, every tensor at a fixed place in it.
//
// A layer asks for its tensors in plan() and keeps the slots. `saved` tensors live from forward to backward of a
// pass and have a place of their own; `scratch` tensors live inside one call of the layer, and calls that follow
// each other share the place (a Frame ends the sharing scope). After commit() a view costs an addition.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "engine/core/buffer.h"
#include "engine/core/tensor.h"

namespace engine {

struct Slot {
  int64_t offset = -1;
  bool is_saved = false;
  Tensor shape;  // without memory
};

class ArenaPlan {
 public:
  explicit ArenaPlan(DType activations = DType::f32) : activations_(activations) {}
  // How activations and their gradients are stored.
  DType activations() const { return activations_; }

  Slot saved(const std::string& name, DType dtype, std::initializer_list<int64_t> dims);
  Slot scratch(const std::string& name, DType dtype, std::initializer_list<int64_t> dims);

  // Scratch asked for while a frame lives is free again when it ends.
  class Frame {
   public:
    explicit Frame(ArenaPlan& plan) : plan_(plan), begin_(plan.scratch_now_) {}
    ~Frame() { plan_.scratch_now_ = begin_; }
    Frame(const Frame&) = delete;

   private:
    ArenaPlan& plan_;
    int64_t begin_;
  };

  // Names of tensors planned while it lives begin with `name`.
  class Scope {
   public:
    Scope(ArenaPlan& plan, const std::string& name) : plan_(plan), length_(plan.prefix_.size()) {
      plan.prefix_ += name + ".";
    }
    ~Scope() { plan_.prefix_.resize(length_); }
    Scope(const Scope&) = delete;

   private:
    ArenaPlan& plan_;
    size_t length_;
  };

  struct Entry {
    std::string name;
    Slot slot;
    int64_t bytes;
  };
  const std::vector<Entry>& entries() const { return entries_; }
  int64_t saved_bytes() const { return saved_bytes_; }
  int64_t scratch_bytes() const { return scratch_peak_; }

 private:
  Slot add(const std::string& name, DType dtype, std::initializer_list<int64_t> dims, bool is_saved);
  DType activations_;
  std::vector<Entry> entries_;
  std::string prefix_;
  int64_t saved_bytes_ = 0, scratch_now_ = 0, scratch_peak_ = 0;
};

class Arena {
 public:
  Arena() = default;
  explicit Arena(const ArenaPlan& plan, Device device = Device::cpu);

  Tensor view(const Slot& slot) const;
  // The first `rows` rows of a slot that was planned for the largest pass.
  Tensor view(const Slot& slot, int64_t rows) const;
  int64_t bytes() const { return memory_.bytes(); }

 private:
  Buffer memory_;
  int64_t saved_bytes_ = 0;
};

}  // namespace engine
