// cuDNN's attention, where a build has it and it takes the problem; the kernels of causal_attention_cuda.cu do the
// rest.
#pragma once

#include "attention/causal_attention.h"

namespace attention::cuda {

// True if cuDNN has queued the computation: bf16, whole sequences without documents, head_dim a multiple of 8 up to
// 128, and a plan of cuDNN's for the shape. False if nothing was done. Which of both is decided by the shape alone.
// Throws Error(environment) where cuDNN fails at what it had a plan for.
bool cudnn_attention_forward(const CausalAttentionForward& a);
// By the algorithm that gives the same bits each time.
bool cudnn_attention_backward(const CausalAttentionBackward& a);

// to[b, h, s] = lse[b * length + s, h]: as cuDNN's backward pass wants it. On the stream.
void lse_by_head(float* to, const float* lse_TH, int64_t sequences, int64_t heads, int64_t length);

}  // namespace attention::cuda
