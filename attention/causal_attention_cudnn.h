// cuDNN's attention, where a build has it and it takes the problem; the kernels of causal_attention_cuda.cu do the
// rest.
#pragma once

#include <string>

#include "attention/causal_attention.h"

namespace attention::cuda {

// True if cuDNN has queued the computation: bf16, whole sequences without documents, head_dim a multiple of 8 up to
// 128, rows at multiples of 16 bytes, and a plan of cuDNN's for the shape. False if nothing was done. Which of both is
// decided by the shape and the alignments alone. Throws Error(environment) where cuDNN fails at what it had a plan for,
// or lacks a part of its installation.
bool cudnn_attention_forward(const CausalAttentionForward& a);
// By the algorithm that gives the same bits each time.
bool cudnn_attention_backward(const CausalAttentionBackward& a);

// "cuDNN 9.19.0"; empty in a build without it.
std::string cudnn_library();

// What the calling thread has handed over, for tests: calls that cuDNN took, and why it last had no plan.
struct CudnnUse {
  int64_t calls = 0;
  std::string no_plan;
};
const CudnnUse& cudnn_use();

// to[b, h, s] = lse[(b * length + s) * row_stride + h]: as cuDNN's backward pass wants it. On the stream.
void lse_by_head(float* to, const float* lse, int64_t sequences, int64_t heads, int64_t length, int64_t row_stride);

}  // namespace attention::cuda
