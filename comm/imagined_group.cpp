#include "comm/imagined_group.h"

#include "engine/core/error.h"

namespace comm {
namespace {

class ImaginedGroup final : public Group {
 public:
  ImaginedGroup(int rank, int size) : rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  const char* transport() const override { return "imagined"; }
  std::unique_ptr<Group> split(int, int) override { nobody_there(); }
  void barrier() override { nobody_there(); }
  Work broadcast(Tensor, int) override { nobody_there(); }
  Work all_reduce_sum(Tensor) override { nobody_there(); }
  Work all_reduce_max(Tensor) override { nobody_there(); }
  Work all_gather(Tensor, ConstTensor) override { nobody_there(); }
  Work reduce_scatter_sum(Tensor, ConstTensor, std::span<const int64_t>) override { nobody_there(); }
  Work all_gather_v(Tensor, std::span<const int64_t>) override { nobody_there(); }
  Work all_to_all(Tensor, ConstTensor) override { nobody_there(); }
  Work all_to_all_v(Tensor, std::span<const int64_t>, ConstTensor, std::span<const int64_t>) override {
    nobody_there();
  }

 private:
  [[noreturn]] static void nobody_there() {
    throw engine::Error(engine::ExitCode::bug, "a collective of ranks that are not there");
  }
  int rank_, size_;
};

}  // namespace

std::unique_ptr<Group> make_imagined_group(int rank, int size) {
  return std::make_unique<ImaginedGroup>(rank, size);
}

}  // namespace comm
