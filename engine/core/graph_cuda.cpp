#include <utility>

#include "engine/core/cuda_context.h"
#include "engine/core/graph.h"

namespace engine {

void Graph::record(const std::function<void()>& queue) {
  forget();
  CudaContext& context = cuda_context();
  ENSURE(context.recorded_copies == nullptr, "a graph is recorded inside of another");
  cudaGraph_t graph = nullptr;
  const auto end = [&] {
    context.recorded_copies = nullptr;
    return cudaStreamEndCapture(context.own.stream, &graph);
  };
  // relaxed: memory for copies is taken meanwhile, and what else is not allowed we look for ourselves
  CUDA_CHECK(cudaStreamBeginCapture(context.own.stream, cudaStreamCaptureModeRelaxed));
  context.recorded_copies = &copied_;
  try {
    queue();
  } catch (...) {
    if (end() == cudaSuccess) cudaGraphDestroy(graph);
    forget();
    throw;
  }
  CUDA_CHECK(end());
  const cudaError_t status = cudaGraphInstantiate(&graph_, graph, 0);
  cudaGraphDestroy(graph);
  CUDA_CHECK(status);
}

void Graph::launch() const {
  ENSURE(recorded(), "a graph that was not recorded");
  CUDA_CHECK(cudaGraphLaunch(graph_, device_stream()));
}

void Graph::forget() noexcept {
  if (!copied_.empty()) cudaStreamSynchronize(cuda_context().own.stream);  // a launch may still read them
  if (graph_ != nullptr) cudaGraphExecDestroy(std::exchange(graph_, nullptr));
  for (void* memory : copied_) cudaFreeHost(memory);
  copied_.clear();
}

}  // namespace engine
