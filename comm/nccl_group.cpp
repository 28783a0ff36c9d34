#include <utility>

#include "comm/nccl_session.h"
#include "comm/nccl_world.h"
#include "engine/core/device.h"
#include "engine/core/error.h"

namespace comm {
namespace {

int64_t bytes_of(const ConstTensor& tensor) {
  ENSURE(tensor.is_contiguous(), "collectives take contiguous tensors");
  return tensor.num_elements() * engine::dtype_bytes(tensor.dtype);
}

ncclDataType_t summed_type(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return ncclFloat64;
    case DType::f32:
      return ncclFloat32;
    case DType::i64:
      return ncclInt64;
    default:
      ENSURE(false, "no reduction of ", engine::dtype_name(dtype));
  }
}

bool on_device(const ConstTensor& tensor) {
  return tensor.device == engine::Device::cuda;
}
bool on_device(const ConstTensor& out, const ConstTensor& in) {
  ENSURE(out.device == in.device, "a collective's buffers are all on the device or all in host memory");
  return on_device(out);
}

class NcclGroup final : public Group {
 public:
  NcclGroup(std::shared_ptr<NcclSession> session, std::unique_ptr<Group> host)
      : session_(std::move(session)), host_(std::move(host)) {}
  ~NcclGroup() override {
    if (communicator_ != nullptr) session_->leave(communicator_);
  }

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  const char* transport() const override { return "nccl"; }
  double waited_seconds() const override { return host_->waited_seconds(); }

  std::unique_ptr<Group> split(int color, int key) override {
    return std::make_unique<NcclGroup>(session_, host().split(color, key));
  }
  void barrier() override { host().barrier(); }

  Work broadcast(Tensor data, int root) override {
    if (!on_device(data)) return host().broadcast(data, root);
    const size_t bytes = static_cast<size_t>(bytes_of(data));
    return run("broadcast", [=](ncclComm_t comm, cudaStream_t stream) {
      check_nccl(ncclBroadcast(data.data, data.data, bytes, ncclUint8, root, comm, stream), "ncclBroadcast");
    });
  }

  Work all_reduce_sum(Tensor data) override {
    if (!on_device(data)) return host().all_reduce_sum(data);
    return all_reduce("all_reduce_sum", data, ncclSum);
  }
  Work all_reduce_max(Tensor data) override {
    if (!on_device(data)) return host().all_reduce_max(data);
    return all_reduce("all_reduce_max", data, ncclMax);
  }

  Work all_gather(Tensor out, ConstTensor in) override {
    if (!on_device(out, in)) return host().all_gather(out, in);
    const int64_t bytes = bytes_of(in);
    ENSURE(bytes_of(out) == bytes * size(), "all_gather gives ", bytes * size(), " bytes, not ", bytes_of(out));
    return run("all_gather", [=](ncclComm_t comm, cudaStream_t stream) {
      check_nccl(ncclAllGather(in.data, out.data, static_cast<size_t>(bytes), ncclUint8, comm, stream),
                 "ncclAllGather");
    });
  }

  // One reduction to each rank: parts differ in size, and NCCL's own reduce-scatter takes equal ones.
  Work reduce_scatter_sum(Tensor out, ConstTensor in, std::span<const int64_t> begins) override {
    if (!on_device(out, in)) return host().reduce_scatter_sum(out, in, begins);
    const int64_t count = count_of(begins, rank()), element = engine::dtype_bytes(in.dtype);
    ENSURE(out.num_elements() == count, "this rank's part has ", count, " elements, not ", out.num_elements());
    ENSURE(out.dtype == in.dtype && bytes_of(in) >= begins.back() * element, "sums have the type of what is summed");
    return run("reduce_scatter_sum", [=, this](ncclComm_t comm, cudaStream_t stream) {
      for (int r = 0; r < size(); ++r) {
        const size_t part = static_cast<size_t>(count_of(begins, r));
        if (part == 0) continue;
        const char* from = static_cast<const char*>(in.data) + begins[static_cast<size_t>(r)] * element;
        void* to = r == rank() ? out.data : nullptr;
        check_nccl(ncclReduce(from, to, part, summed_type(in.dtype), ncclSum, r, comm, stream), "ncclReduce");
      }
    });
  }

  // One broadcast from each rank, for the same reason.
  Work all_gather_v(Tensor data, std::span<const int64_t> begins) override {
    if (!on_device(data)) return host().all_gather_v(data, begins);
    const int64_t element = engine::dtype_bytes(data.dtype);
    ENSURE(bytes_of(data) >= begins.back() * element, "all_gather_v has more parts than elements");
    return run("all_gather_v", [=, this](ncclComm_t comm, cudaStream_t stream) {
      for (int r = 0; r < size(); ++r) {
        const size_t bytes = static_cast<size_t>(count_of(begins, r) * element);
        if (bytes == 0) continue;
        char* part = static_cast<char*>(data.data) + begins[static_cast<size_t>(r)] * element;
        check_nccl(ncclBroadcast(part, part, bytes, ncclUint8, r, comm, stream), "ncclBroadcast");
      }
    });
  }

  Work all_to_all(Tensor out, ConstTensor in) override {
    if (!on_device(out, in)) return host().all_to_all(out, in);
    const int64_t bytes = bytes_of(in) / size();
    ENSURE(bytes_of(out) == bytes_of(in), "all_to_all gives ", bytes_of(in), " bytes, not ", bytes_of(out));
    return run("all_to_all", [=, this](ncclComm_t comm, cudaStream_t stream) {
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 28, 0)
      if (bytes == 0) return;
      check_nccl(ncclAlltoAll(in.data, out.data, static_cast<size_t>(bytes), ncclUint8, comm, stream), "ncclAlltoAll");
#else
      for (int r = 0; r < size(); ++r) {
        exchange(r, static_cast<char*>(out.data) + r * bytes, bytes, static_cast<const char*>(in.data) + r * bytes,
                 bytes, comm, stream);
      }
#endif
    });
  }

  Work all_to_all_v(Tensor out, std::span<const int64_t> recv_rows, ConstTensor in,
                    std::span<const int64_t> send_rows) override {
    if (!on_device(out, in)) return host().all_to_all_v(out, recv_rows, in, send_rows);
    ENSURE(in.is_contiguous() && out.is_contiguous(), "collectives take contiguous tensors");
    const int64_t row = in.columns() * engine::dtype_bytes(in.dtype);
    ENSURE(row == out.columns() * engine::dtype_bytes(out.dtype), "rows sent and received differ in size");
    return run("all_to_all_v", [=, this](ncclComm_t comm, cudaStream_t stream) {
      char* to = static_cast<char*>(out.data);
      const char* from = static_cast<const char*>(in.data);
      for (size_t r = 0; r < static_cast<size_t>(size()); ++r) {
        const int64_t received = recv_rows[r] * row, sent = send_rows[r] * row;
        exchange(static_cast<int>(r), to, received, from, sent, comm, stream);
        to += received, from += sent;
      }
    });
  }

 private:
  static int64_t count_of(std::span<const int64_t> begins, int r) {
    return begins[static_cast<size_t>(r) + 1] - begins[static_cast<size_t>(r)];
  }

  // The host group, which goes by this one's name and deadline.
  Group& host() {
    session_->check();
    host_->set_name(name_);
    host_->set_deadline(deadline_seconds_);
    return *host_;
  }

  // Made with the first collective on device buffers, as it takes memory there and not every group has one.
  ncclComm_t communicator() {
    if (communicator_ == nullptr) {
      ncclUniqueId id{};
      if (rank() == 0) check_nccl(ncclGetUniqueId(&id), "ncclGetUniqueId");
      host().broadcast(Tensor(&id, DType::u8, {static_cast<int64_t>(sizeof(id))}), 0).wait();
      communicator_ = session_->join(id, rank(), size());
    }
    return communicator_;
  }

  template <class Issue>
  Work run(const char* name, Issue issue) {
    ncclComm_t comm = communicator();
    return session_->run({name, name_, ++number_, deadline_seconds_},
                         [&](cudaStream_t stream) { issue(comm, stream); });
  }

  Work all_reduce(const char* name, Tensor data, ncclRedOp_t op) {
    bytes_of(data);
    return run(name, [=](ncclComm_t comm, cudaStream_t stream) {
      check_nccl(ncclAllReduce(data.data, data.data, static_cast<size_t>(data.num_elements()), summed_type(data.dtype),
                               op, comm, stream),
                 "ncclAllReduce");
    });
  }

  static void exchange(int other, void* to, int64_t received, const void* from, int64_t sent, ncclComm_t comm,
                       cudaStream_t stream) {
    if (sent > 0) check_nccl(ncclSend(from, static_cast<size_t>(sent), ncclUint8, other, comm, stream), "ncclSend");
    if (received > 0)
      check_nccl(ncclRecv(to, static_cast<size_t>(received), ncclUint8, other, comm, stream), "ncclRecv");
  }

  std::shared_ptr<NcclSession> session_;
  std::unique_ptr<Group> host_;
  ncclComm_t communicator_ = nullptr;
  uint64_t number_ = 0;  // collectives on device buffers begun so far
};

}  // namespace

bool nccl_is_built() {
  return true;
}

std::string nccl_library() {
  int version = 0;
  check_nccl(ncclGetVersion(&version), "ncclGetVersion");
  return engine::str("NCCL ", version / 10000, ".", version / 100 % 100, ".", version % 100);
}

std::unique_ptr<Group> make_nccl_group(std::unique_ptr<Group> host) {
  engine::require_device();
  auto session = std::make_shared<NcclSession>(host->rank());
  return std::make_unique<NcclGroup>(std::move(session), std::move(host));
}

}  // namespace comm
