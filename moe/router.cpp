#include "moe/router.h"

namespace moe {

void router_forward(const RouterForward& a) {
  const int64_t T = a.logits_TE.rows(), E = a.logits_TE.columns(), K = a.topk_idx_TK.columns();
  ENSURE(K >= 1 && K <= E && E <= 1024, K, " experts per token of ", E, " (at most 1024)");
  ENSURE(E % a.options.num_groups == 0 && a.options.groups_per_token * (E / a.options.num_groups) >= K,
         a.options.groups_per_token, " groups of ", E / a.options.num_groups, " experts cannot give ", K, " choices");
  ENSURE(a.scores_TE.num_elements() == T * E && a.topk_weights_TK.num_elements() == T * K, "scores have ",
         a.scores_TE.num_elements(), " elements and weights ", a.topk_weights_TK.num_elements());
  DISPATCH(a.logits_TE.device, router_forward, a);
}

void router_backward(const RouterBackward& a) {
  ENSURE(a.dlogits_TE.num_elements() == a.scores_TE.num_elements(), "dlogits has ", a.dlogits_TE.num_elements(),
         " elements but scores ", a.scores_TE.num_elements());
  const int64_t K = a.topk_idx_TK.columns();
  for (int64_t t = 0; a.topk_idx_TK.device == engine::Device::cpu && t < a.topk_idx_TK.rows(); ++t) {
    const int32_t* idx = a.topk_idx_TK.i32() + t * K;
    for (int64_t k = 1; k < K; ++k) {
      ENSURE((idx[k] < 0) == (idx[0] < 0), "row ", t, " has lost choice ", k, "; the gradient needs the whole choice");
    }
  }
  DISPATCH(a.dlogits_TE.device, router_backward, a);
}

}  // namespace moe
