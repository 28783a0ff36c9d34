#include <cstring>

#include "comm/group.h"
#include "engine/core/error.h"

namespace comm {
namespace {

void copy(Tensor out, ConstTensor in) {
  ENSURE(out.num_elements() == in.num_elements() && out.dtype == in.dtype, "a group of one copies ", in.num_elements(),
         " elements to ", out.num_elements());
  ENSURE(out.is_contiguous() && in.is_contiguous(), "collectives take contiguous tensors");
  if (out.data == in.data || in.num_elements() == 0) return;
  std::memcpy(out.data, in.data, static_cast<size_t>(in.num_elements() * engine::dtype_bytes(in.dtype)));
}

class SelfGroup final : public Group {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  const char* transport() const override { return "self"; }
  std::unique_ptr<Group> split(int, int) override { return make_self_group(); }
  void barrier() override {}
  Work broadcast(Tensor, int root) override {
    ENSURE(root == 0, "root is ", root, " in a group of one");
    return {};
  }
  Work all_reduce_sum(Tensor) override { return {}; }
  Work all_reduce_max(Tensor) override { return {}; }
  Work all_gather(Tensor out, ConstTensor in) override { return copy(out, in), Work(); }
  Work reduce_scatter_sum(Tensor out, ConstTensor in, std::span<const int64_t>) override {
    return copy(out, in), Work();
  }
  Work all_gather_v(Tensor, std::span<const int64_t>) override { return {}; }
  Work all_to_all(Tensor out, ConstTensor in) override { return copy(out, in), Work(); }
  Work all_to_all_v(Tensor out, std::span<const int64_t> recv_rows, ConstTensor in,
                    std::span<const int64_t> send_rows) override {
    ENSURE(recv_rows.size() == 1 && send_rows.size() == 1 && recv_rows[0] == send_rows[0],
           "a group of one receives what it sends");
    return copy(out.slice_rows(0, recv_rows[0]), in.slice_rows(0, send_rows[0])), Work();
  }
};

}  // namespace

std::unique_ptr<Group> make_self_group() {
  return std::make_unique<SelfGroup>();
}

}  // namespace comm
