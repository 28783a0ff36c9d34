#include "attention/causal_attention.h"

namespace attention {
namespace {

void check_heads(const ConstTensor& q_THC, const ConstTensor& k_TGC, int64_t heads, int64_t kv_heads,
                 int64_t head_dim) {
  ENSURE(kv_heads > 0 && heads % kv_heads == 0, heads, " query heads cannot share ", kv_heads, " key/value heads");
  ENSURE(q_THC.columns() == heads * head_dim && k_TGC.columns() == kv_heads * head_dim, "q has ", q_THC.columns(),
         " columns and k ", k_TGC.columns(), " for ", heads, " and ", kv_heads, " heads of ", head_dim);
}

}  // namespace

void causal_attention_forward(const CausalAttentionForward& a) {
  check_heads(a.q_THC, a.k_TGC, a.num_heads, a.num_kv_heads, a.head_dim);
  ENSURE(a.q_THC.rows() == a.num_sequences * a.query_len, "q has ", a.q_THC.rows(), " rows, not ", a.num_sequences,
         " sequences of ", a.query_len);
  ENSURE(a.first_position + a.query_len <= a.key_stride || a.num_sequences == 0, "queries reach position ",
         a.first_position + a.query_len, " but there are ", a.key_stride, " keys");
  DISPATCH(a.q_THC.device, causal_attention_forward, a);
}

void causal_attention_backward(const CausalAttentionBackward& a) {
  check_heads(a.q_THC, a.k_TGC, a.num_heads, a.num_kv_heads, a.head_dim);
  ENSURE(a.do_THC.rows() == a.num_sequences * a.query_len && a.dk_TGC.rows() == a.do_THC.rows(), "do has ",
         a.do_THC.rows(), " rows, not ", a.num_sequences, " sequences of ", a.query_len);
  DISPATCH(a.do_THC.device, causal_attention_backward, a);
}

}  // namespace attention
