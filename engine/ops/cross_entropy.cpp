#include "engine/ops/cross_entropy.h"

namespace engine::ops {

void cross_entropy(const CrossEntropy& a) {
  const int64_t T = a.logits_TV.rows(), V = a.logits_TV.columns();
  ENSURE(a.losses_T.num_elements() == T && a.targets_T.num_elements() == T, "losses has ", a.losses_T.num_elements(),
         " elements and targets ", a.targets_T.num_elements(), " for ", T, " rows");
  ENSURE(a.logits_TV.is_contiguous() && (!a.dlogits_TV || a.dlogits_TV.num_elements() == T * V), "dlogits has ",
         a.dlogits_TV.num_elements(), " elements for ", T, " x ", V, " logits");
  for (int64_t t = 0; a.targets_T.device == Device::cpu && t < T; ++t) {
    const int32_t target = a.targets_T.i32()[t];
    if (target < -1 || target >= V) {
      throw Error(ExitCode::data, str("target ", target, " at row ", t, " is outside of the vocabulary of ", V,
                                      "; set model.vocab_size to the tokenizer's size"));
    }
  }
  DISPATCH(a.logits_TV.device, cross_entropy, a);
}

}  // namespace engine::ops
