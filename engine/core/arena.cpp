#include "engine/core/arena.h"

#include <algorithm>

#include "engine/core/error.h"

namespace engine {
namespace {

constexpr int64_t kAlignment = 256;

}  // namespace

Slot ArenaPlan::add(const std::string& name, DType dtype, std::initializer_list<int64_t> dims, bool is_saved) {
  Slot slot;
  slot.shape = Tensor(nullptr, dtype, dims);
  slot.is_saved = is_saved;
  int64_t bytes = slot.shape.num_elements() * dtype_bytes(dtype);
  int64_t padded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  int64_t& end = is_saved ? saved_bytes_ : scratch_now_;
  slot.offset = end;
  end += padded;
  scratch_peak_ = std::max(scratch_peak_, scratch_now_);
  entries_.push_back({prefix_ + name, slot, bytes});
  return slot;
}

Slot ArenaPlan::saved(const std::string& name, DType dtype, std::initializer_list<int64_t> dims) {
  return add(name, dtype, dims, true);
}

Slot ArenaPlan::scratch(const std::string& name, DType dtype, std::initializer_list<int64_t> dims) {
  return add(name, dtype, dims, false);
}

Arena::Arena(const ArenaPlan& plan, Device device)
    : memory_(plan.saved_bytes() + plan.scratch_bytes(), device), saved_bytes_(plan.saved_bytes()) {}

Tensor Arena::view(const Slot& slot) const {
  ENSURE(slot.offset >= 0, "a slot that was not planned");
  Tensor view = slot.shape;
  view.device = memory_.device();
  view.data = memory_.data() + slot.offset + (slot.is_saved ? 0 : saved_bytes_);
  return view;
}

Tensor Arena::view(const Slot& slot, int64_t rows) const {
  ENSURE(rows <= slot.shape.rows(), "a pass has ", rows, " rows but memory was planned for ", slot.shape.rows());
  return view(slot).slice_rows(0, rows);
}

}  // namespace engine
