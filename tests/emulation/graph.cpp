// CUDA graphs as lists of operations in the order they were recorded, on whatever streams: one of the orders a device
// may take.
#include <utility>
#include <vector>

#include "tests/emulation/stream.h"

struct CUgraph_st {
  std::vector<emulation::Recorded> operations;
};
struct CUgraphExec_st : CUgraph_st {};

namespace {

thread_local CUgraph_st* recording = nullptr;

}  // namespace

namespace emulation {

std::vector<Recorded>* recorded_operations() {
  return recording == nullptr ? nullptr : &recording->operations;
}

}  // namespace emulation

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  if (recording != nullptr) return cudaErrorStreamCaptureUnsupported;
  recording = new CUgraph_st;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  *graph = std::exchange(recording, nullptr);
  return *graph == nullptr ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new CUgraphExec_st{*graph};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  for (const auto& [what, run] : executable->operations) emulation::enqueue(stream, what, run);
  return cudaGetLastError();
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
