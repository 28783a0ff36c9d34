// Group: ranks that work together, and the collectives they call.
//
// Every rank of a group calls the same collectives in the same order. Each returns a Work; buffers and counts belong
// to the collective until wait() returns. A collective takes no memory from the heap once the largest of its kind has
// run. Sums are exact for integers; sums of f64 are only ever taken of values on a common exact grid
// (engine/core/gradient.h), so the order in which an implementation adds cannot matter. Collectives are waited for in
// the order in which they were called. A group of one is a real group: its collectives copy.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "engine/core/tensor.h"

namespace comm {

using engine::ConstTensor;
using engine::DType;
using engine::Tensor;

// A collective that may still be under way. wait() returns when this rank's part is complete; it may be called
// once, and is called by the destructor if nobody did. The group keeps the state, and outlives it.
class Work {
 public:
  class State {
   public:
    virtual ~State() = default;
    virtual void wait() = 0;
  };
  Work() = default;  // complete
  explicit Work(State& state) : state_(&state) {}
  Work(Work&& other) noexcept : state_(std::exchange(other.state_, nullptr)) {}
  Work& operator=(Work&& other) {
    wait();
    state_ = std::exchange(other.state_, nullptr);
    return *this;
  }
  // While an exception unwinds, buffers must not go before the others have read them; a second error adds nothing.
  ~Work() {
    try {
      wait();
    } catch (...) {
    }
  }
  void wait() {
    if (State* state = std::exchange(state_, nullptr)) state->wait();
  }

 private:
  State* state_ = nullptr;
};

class Group {
 public:
  virtual ~Group() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual const char* transport() const = 0;

  // What messages call it; a literal.
  void set_name(const char* name) { name_ = name; }
  const char* name() const { return name_; }
  // Processes: collectives that wait longer throw Error(rank_lost) naming whom they miss; 0: they wait for ever.
  void set_deadline(double seconds) { deadline_seconds_ = seconds; }
  // How long this rank has waited for others in collectives of this group so far.
  virtual double waited_seconds() const { return waited_seconds_; }

  // Ranks with the same color form a group, ordered by key, then by rank.
  virtual std::unique_ptr<Group> split(int color, int key) = 0;
  virtual void barrier() = 0;

  // data of `root` to every rank.
  [[nodiscard]] virtual Work broadcast(Tensor data, int root) = 0;
  // data = elementwise sum over ranks; f64, f32 (only of equal or disjointly non-zero values) or i64.
  [[nodiscard]] virtual Work all_reduce_sum(Tensor data) = 0;
  // data = elementwise largest over ranks; f64 or i64.
  [[nodiscard]] virtual Work all_reduce_max(Tensor data) = 0;
  // out[r * n ...] = in of rank r; in has n elements, out size() * n.
  [[nodiscard]] virtual Work all_gather(Tensor out, ConstTensor in) = 0;
  // out = elements [begins[rank], begins[rank + 1]) of the sum over ranks of in; begins has size() + 1 entries.
  [[nodiscard]] virtual Work reduce_scatter_sum(Tensor out, ConstTensor in, std::span<const int64_t> begins) = 0;
  // data: rank r provides elements [begins[r], begins[r + 1]), every rank receives all of them.
  [[nodiscard]] virtual Work all_gather_v(Tensor data, std::span<const int64_t> begins) = 0;
  // out[r * n ...] = the part of rank r's `in` that begins at rank() * n; n = elements / size().
  [[nodiscard]] virtual Work all_to_all(Tensor out, ConstTensor in) = 0;
  // Rows: the first send_rows[0] rows of `in` go to rank 0, the next send_rows[1] to rank 1, ...; `out` receives
  // recv_rows[0] rows of rank 0, then those of rank 1, ...
  [[nodiscard]] virtual Work all_to_all_v(Tensor out, std::span<const int64_t> recv_rows, ConstTensor in,
                                          std::span<const int64_t> send_rows) = 0;

 protected:
  const char* name_ = "group";
  double waited_seconds_ = 0, deadline_seconds_ = 0;
};

// The group of one.
std::unique_ptr<Group> make_self_group();

}  // namespace comm
