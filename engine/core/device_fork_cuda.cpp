#include "engine/core/cuda_context.h"

namespace engine {

DeviceFork::DeviceFork(int64_t scratch_bytes) {
  CudaContext& here = cuda_context();
  ENSURE(here.current == &here.own, "a fork begins while another of the same thread is not joined");
  for (CudaQueue& side : here.sides) {
    if (side.stream == nullptr) side.create();
    side.reserve_scratch(scratch_bytes);  // zeroed on the thread's own stream, which the side streams wait for
  }
  CUDA_CHECK(cudaEventRecord(here.own.reached, here.own.stream));
}

DeviceFork::~DeviceFork() {
  CudaContext& here = cuda_context();
  here.current = &here.own;
}

void DeviceFork::use(int stream) {
  CudaContext& here = cuda_context();
  CudaQueue& side = here.sides[stream];
  if (!used_[stream]) CUDA_CHECK(cudaStreamWaitEvent(side.stream, here.own.reached));
  used_[stream] = true;
  here.current = &side;
}

void DeviceFork::join() {
  CudaContext& here = cuda_context();
  here.current = &here.own;
  for (int i = 0; i < kStreams; ++i) {
    if (!used_[i]) continue;
    used_[i] = false;
    CUDA_CHECK(cudaEventRecord(here.sides[i].reached, here.sides[i].stream));
    CUDA_CHECK(cudaStreamWaitEvent(here.own.stream, here.sides[i].reached));
  }
}

}  // namespace engine
