#include "engine/ops/embedding.h"

#include "engine/core/simd.h"
#include "engine/core/thread_pool.h"
#include "engine/ops/gradient_chain.h"

namespace engine::ops::SIMD_TARGET {

void embedding_forward(const EmbeddingForward& a) {
  const int64_t D = a.weight_VD.columns();
  parallel_ranges(a.y_TD.rows(), 32, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* from = a.weight_VD.f32() + a.tokens_T.i32()[t] * a.weight_VD.row_stride;
      float* to = a.y_TD.f32() + t * a.y_TD.row_stride;
      for (int64_t d = 0; d < D; ++d) to[d] = from[d];
    }
  });
}

namespace {

// Columns [begin, begin + n) of all rows. Ending a row twice adds an exact zero the second time, so a row is ended
// once for every token it has in the granule.
void add_columns(const EmbeddingBackward& a, int64_t begin, int64_t n) {
  simd::MaxBits largest;
  float* chain = a.dweight_VD.chain.f32() + begin;
  const int64_t step = a.dweight_VD.chain.row_stride;
  const int32_t* tokens = a.tokens_T.i32();
  for (int64_t g = 0; g < a.granules.count; ++g) {
    for (int64_t t = a.granules.offsets[g]; t < a.granules.offsets[g + 1]; ++t) {
      const float* dy = a.dy_TD.f32() + t * a.dy_TD.row_stride + begin;
      float* row = chain + tokens[t] * step;
      for (int64_t d = 0; d < n; ++d) row[d] = row[d] + dy[d];
    }
    if (g + 1 == a.granules.count && !a.granules.ends) break;
    if (g == 0 && !a.granules.begins) {
      for (int64_t v = 0; v < a.dweight_VD.chain.rows(); ++v) {
        simd::end_granule(a.dweight_VD, v * step + begin, n, largest);
      }
    } else {
      for (int64_t t = a.granules.offsets[g]; t < a.granules.offsets[g + 1]; ++t) {
        simd::end_granule(a.dweight_VD, tokens[t] * step + begin, n, largest);
      }
    }
  }
  largest.merge_into(a.dweight_VD.max_bits);
}

}  // namespace

void embedding_backward(const EmbeddingBackward& a) {
  parallel_ranges(a.dy_TD.columns(), 64, [&](int64_t begin, int64_t end) { add_columns(a, begin, end - begin); });
}

}  // namespace engine::ops::SIMD_TARGET
