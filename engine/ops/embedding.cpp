#include "engine/ops/embedding.h"

namespace engine::ops {

void embedding_forward(const EmbeddingForward& a) {
  const int64_t T = a.tokens_T.num_elements(), V = a.weight_VD.rows();
  ENSURE(a.y_TD.rows() == T && a.y_TD.columns() == a.weight_VD.columns(), "y is ", a.y_TD.rows(), " x ",
         a.y_TD.columns(), " for ", T, " tokens of width ", a.weight_VD.columns());
  for (int64_t t = 0; a.tokens_T.device == Device::cpu && t < T; ++t) {
    const int32_t token = a.tokens_T.i32()[t];
    if (token < 0 || token >= V) {
      throw Error(ExitCode::data, str("token ", token, " at row ", t, " is outside of the vocabulary of ", V,
                                      "; set model.vocab_size to the tokenizer's size"));
    }
  }
  DISPATCH(a.y_TD.device, embedding_forward, a);
}

void embedding_backward(const EmbeddingBackward& a) {
  ENSURE(a.dy_TD.rows() == a.tokens_T.num_elements(), "dy has ", a.dy_TD.rows(), " rows for ",
         a.tokens_T.num_elements(), " tokens");
  ENSURE(a.dweight_VD.chain.columns() == a.dy_TD.columns(), "dweight has ", a.dweight_VD.chain.columns(),
         " columns but dy ", a.dy_TD.columns());
  DISPATCH(a.dy_TD.device, embedding_backward, a);
}

}  // namespace engine::ops
