// Token embedding: rows of a table.
#pragma once

#include "engine/core/dispatch.h"
#include "engine/core/gradient.h"
#include "engine/core/tensor.h"

namespace engine::ops {

// y[t] = weight[tokens[t]]; y is overwritten. A token outside of the table throws Error(data), on a GPU it gives NaN.
struct EmbeddingForward {
  Tensor y_TD;
  ConstTensor tokens_T, weight_VD;  // tokens i32
};
void embedding_forward(const EmbeddingForward& a);

// dweight[v] += sum over t with tokens[t] = v of dy[t], a chain over the tokens of each granule.
// Where the first granule is not known to begin with this pass, rows without a token in it may have a chain to end.
struct EmbeddingBackward {
  WeightGradient dweight_VD;
  ConstTensor dy_TD, tokens_T;
  GranuleRows granules;
};
void embedding_backward(const EmbeddingBackward& a);

KERNEL(void embedding_forward(const EmbeddingForward&); void embedding_backward(const EmbeddingBackward&))

}  // namespace engine::ops
