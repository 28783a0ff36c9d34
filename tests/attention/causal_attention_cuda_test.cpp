// Attention on a device against its CPU twin, and one query at a time against all at once.
#include "attention/causal_attention.h"

#include "attention/causal_attention_cudnn.h"
#include "tests/support/device.h"

namespace {

using namespace engine;
using test::DeviceArray;
using test::DeviceTensor;
using test::fresh_values;
using test::poisoned;
using test::Results;
using test::tensor;

struct Case {
  int64_t sequences, length, heads, kv_heads, C;
  bool documents;
};
const Case kCases[] = {
    {1, 1, 1, 1, 4, false}, {2, 33, 2, 1, 8, false}, {1, 70, 4, 2, 20, true}, {2, 96, 2, 2, 16, true}};

// Stored as bf16, what cuDNN takes where the build has it: heads of 64 and 128, lengths that are no multiple of its
// tiles and that are, as many key/value heads as query heads and fewer; and one query alone.
const Case kFusedCases[] = {{2, 200, 2, 1, 64, false},
                            {1, 256, 1, 1, 64, false},
                            {1, 200, 2, 1, 128, false},
                            {1, 256, 1, 1, 128, false},
                            {2, 1, 4, 1, 64, false}};

// Documents of changing length, some longer than a tile of keys.
std::vector<int32_t> document_starts(const Case& c) {
  std::vector<int32_t> starts;
  for (int64_t b = 0; b < c.sequences; ++b) {
    int32_t start = 0;
    for (int32_t s = 0; s < c.length; ++s) {
      if (philox(test::fresh_seed(), 0)[0] % 23 == 0 || s == 40) start = s;
      starts.push_back(start);
    }
  }
  return starts;
}

// Forward and backward on the device against the CPU.
void check_case(const Case& c, DType storage) {
  const int64_t T = c.sequences * c.length, Q = c.heads * c.C, KV = c.kv_heads * c.C, wide = Q + 2 * KV;
  const auto qkv = fresh_values(T * wide, storage), dout = fresh_values(T * Q, storage);
  const std::vector<int32_t> starts = document_starts(c);
  auto forward = [&](const Tensor& o, const Tensor& lse, const Tensor& all, const int32_t* documents) {
    attention::causal_attention_forward({.o_THC = o,
                                         .lse_TH = lse,
                                         .q_THC = all.slice_columns(0, Q),
                                         .k_TGC = all.slice_columns(Q, KV),
                                         .v_TGC = all.slice_columns(Q + KV, KV),
                                         .document_starts = documents,
                                         .num_heads = c.heads,
                                         .num_kv_heads = c.kv_heads,
                                         .head_dim = c.C,
                                         .num_sequences = c.sequences,
                                         .query_len = c.length,
                                         .key_stride = c.length,
                                         .scale = 0.7f});
  };
  auto backward = [&](const Tensor& dall, const ConstTensor& dout_THC, const Tensor& o, const Tensor& lse,
                      const Tensor& all, const int32_t* documents) {
    attention::causal_attention_backward({.dq_THC = dall.slice_columns(0, Q),
                                          .dk_TGC = dall.slice_columns(Q, KV),
                                          .dv_TGC = dall.slice_columns(Q + KV, KV),
                                          .do_THC = dout_THC,
                                          .q_THC = all.slice_columns(0, Q),
                                          .k_TGC = all.slice_columns(Q, KV),
                                          .v_TGC = all.slice_columns(Q + KV, KV),
                                          .o_THC = o,
                                          .lse_TH = lse,
                                          .document_starts = documents,
                                          .num_heads = c.heads,
                                          .num_kv_heads = c.kv_heads,
                                          .head_dim = c.C,
                                          .num_sequences = c.sequences,
                                          .query_len = c.length,
                                          .scale = 0.7f});
  };
  std::vector<float> o = poisoned(T * Q), lse = poisoned(T * c.heads), dall = poisoned(T * wide), all = qkv;
  const int32_t* documents = c.documents ? starts.data() : nullptr;
  forward(tensor(o, {T, Q}), tensor(lse, {T, c.heads}), tensor(all, {T, wide}), documents);
  backward(tensor(dall, {T, wide}), tensor(dout, {T, Q}), tensor(o, {T, Q}), tensor(lse, {T, c.heads}),
           tensor(all, {T, wide}), documents);
  test::check_parity("causal_attention", storage, {o, lse, dall}, [&]() -> Results {
    DeviceTensor all_d(qkv, {T, wide}, storage), dout_d(dout, {T, Q}, storage);
    DeviceTensor o_d({T, Q}, storage), lse_d({T, c.heads}), dall_d({T, wide}, storage);
    DeviceArray<int32_t> starts_d(starts);
    const int32_t* documents_d = c.documents ? starts_d.data() : nullptr;
    forward(o_d, lse_d, all_d, documents_d);
    backward(dall_d, dout_d, o_d, lse_d, all_d, documents_d);
    return {o_d.host(), lse_d.host(), dall_d.host()};
  });
}

}  // namespace

TEST_CASE("cuda: causal attention forward and backward, with grouped heads, documents and strided rows") {
  test::for_each_storage([](DType storage) {
    for (const Case& c : kCases) check_case(c, storage);
  });
}

TEST_CASE("cuda: causal attention over whole sequences in bf16, by cuDNN where it is there") {
  const attention::cuda::CudnnUse& use = attention::cuda::cudnn_use();
  for (const Case& c : kFusedCases) {
    const int64_t before = use.calls;
    check_case(c, DType::bf16);
    const int64_t taken = use.calls - before;
    MESSAGE(c.sequences, " x ", c.length, ", ", c.heads, "/", c.kv_heads, " heads of ", c.C, ": cuDNN took ", taken,
            " of 6 calls", taken == 6 ? "" : ", the others our own kernel: " + use.no_plan);
  }
}

TEST_CASE("cuda: a query alone has the bits it has among all queries") {
  const int64_t length = 45, heads = 2, C = 8, Q = heads * C;
  const auto q = fresh_values(length * Q, DType::f32), k = fresh_values(length * C, DType::f32);
  const auto v = fresh_values(length * C, DType::f32);
  auto run = [&](int64_t first, int64_t count) {
    DeviceTensor q_d(q, {length, Q}), k_d(k, {length, C}), v_d(v, {length, C}), o_d({count, Q}), lse_d({count, heads});
    attention::causal_attention_forward({.o_THC = o_d,
                                         .lse_TH = lse_d,
                                         .q_THC = Tensor(q_d).slice_rows(first, count),
                                         .k_TGC = k_d,
                                         .v_TGC = v_d,
                                         .num_heads = heads,
                                         .num_kv_heads = 1,
                                         .head_dim = C,
                                         .num_sequences = 1,
                                         .query_len = count,
                                         .first_position = first,
                                         .key_stride = length,
                                         .scale = 0.5f});
    return o_d.host();
  };
  const std::vector<float> together = run(0, length);
  for (int64_t t : {0, 31, 32, 44}) {
    const auto row = together.begin() + t * Q;
    test::check_same_bits(run(t, 1), {row, row + Q}, "query " + std::to_string(t));
  }
}
