// Causal attention with grouped query heads and document mask; the S x S matrix is never formed.
#pragma once

#include "engine/core/dispatch.h"
#include "engine/core/tensor.h"

namespace attention {

using engine::ConstTensor;
using engine::Tensor;

// Row b * query_len + s of q is the query at position p = first_position + s of sequence b; it attends to the keys
// at positions document_starts[row] <= j <= p of sequence b, which are row b * key_stride + j of k and v.
//   o[t,h] = sum_j softmax_j(scale * <q[t,h], k[j, h * G / H]>) v[j, h * G / H]
//   lse[t,h] = log sum_j exp(scale * <q[t,h], k[j, h * G / H]>)
// A row's bits depend on its query, its keys and values and their positions alone: the result is the same whether
// the query comes alone or with others. q, o: [T, H * C]; k, v: [rows, G * C]; rows may be strided. The exception is
// bf16 on a GPU in a build with cuDNN, which takes whole sequences without documents: there the same call gives the
// same bits, but another number of rows may not (causal_attention_cudnn.h).
struct CausalAttentionForward {
  Tensor o_THC, lse_TH;  // overwritten
  ConstTensor q_THC, k_TGC, v_TGC;
  const int32_t* document_starts = nullptr;  // [T]; null: all 0
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0;
  int64_t num_sequences = 0, query_len = 0, first_position = 0, key_stride = 0;
  float scale = 0;
};
void causal_attention_forward(const CausalAttentionForward& a);

// Whole sequences only (first_position 0, key_stride = query_len). dq, dk, dv are overwritten.
// p[t,j] = exp(scale * <q,k> - lse);  ds = p * (<do[t], v[j]> - <do[t], o[t]>) * scale
// dq[t] = sum_j ds k[j];  dk[j] = sum_t ds q[t];  dv[j] = sum_t p do[t], sums over the query heads of a group included
struct CausalAttentionBackward {
  Tensor dq_THC, dk_TGC, dv_TGC;
  ConstTensor do_THC, q_THC, k_TGC, v_TGC, o_THC, lse_TH;
  const int32_t* document_starts = nullptr;
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0;
  int64_t num_sequences = 0, query_len = 0;
  float scale = 0;
};
void causal_attention_backward(const CausalAttentionBackward& a);

KERNEL(void causal_attention_forward(const CausalAttentionForward&);
       void causal_attention_backward(const CausalAttentionBackward&))

}  // namespace attention
