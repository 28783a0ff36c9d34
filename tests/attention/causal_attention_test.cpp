#include "attention/causal_attention.h"

#include "engine/core/thread_pool.h"
#include "tests/support/compare.h"

namespace {

using namespace attention;
using engine::ThreadPool;
using test::tensor;

struct Case {
  int64_t B, S, H, G, C;
  bool documents;
  int64_t q_size() const { return B * S * H * C; }
  int64_t k_size() const { return B * S * G * C; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(C)); }
};
const Case kCases[] = {{1, 1, 1, 1, 4, false},
                       {2, 7, 2, 1, 16, false},
                       {1, 65, 4, 2, 24, true},
                       {2, 64, 2, 2, 8, true},
                       {1, 130, 2, 1, 64, true}};

// A new document every 29 positions, counted over all rows, but never across sequences.
std::vector<int32_t> document_starts(const Case& c) {
  std::vector<int32_t> starts;
  for (int64_t t = 0; t < c.B * c.S; ++t) {
    const int64_t s = t % c.S, since = t % 29;
    starts.push_back(!c.documents || since > s ? 0 : static_cast<int32_t>(s - since));
  }
  return starts;
}

struct Reference {
  std::vector<double> o, lse;
};
Reference reference(const Case& c, const std::vector<double>& q, const std::vector<double>& k,
                    const std::vector<double>& v) {
  const auto starts = document_starts(c);
  Reference r{std::vector<double>(q.size()), {}};
  auto at = [&](int64_t b, int64_t s, int64_t h, int64_t heads) {
    return static_cast<size_t>(((b * c.S + s) * heads + h) * c.C);
  };
  for (int64_t b = 0; b < c.B; ++b) {
    for (int64_t s = 0; s < c.S; ++s) {
      for (int64_t h = 0; h < c.H; ++h) {
        const int64_t g = h * c.G / c.H;
        double sum = 0;
        std::vector<double> p(static_cast<size_t>(s + 1));
        for (int64_t j = starts[static_cast<size_t>(b * c.S + s)]; j <= s; ++j) {
          double score = 0;
          for (int64_t i = 0; i < c.C; ++i)
            score += q[at(b, s, h, c.H) + static_cast<size_t>(i)] * k[at(b, j, g, c.G) + static_cast<size_t>(i)];
          sum += p[static_cast<size_t>(j)] = std::exp(score * static_cast<double>(c.scale()));
        }
        r.lse.push_back(std::log(sum));
        for (int64_t j = 0; j <= s; ++j) {
          for (int64_t i = 0; i < c.C; ++i) {
            r.o[at(b, s, h, c.H) + static_cast<size_t>(i)] +=
                p[static_cast<size_t>(j)] / sum * v[at(b, j, g, c.G) + static_cast<size_t>(i)];
          }
        }
      }
    }
  }
  return r;
}

struct Inputs {
  explicit Inputs(const Case& c)
      : q(test::values(1, c.q_size(), 2)),
        k(test::values(2, c.k_size(), 2)),
        v(test::values(3, c.k_size())),
        dout(test::values(4, c.q_size())),
        starts(document_starts(c)) {}
  std::vector<float> q, k, v, dout;
  std::vector<int32_t> starts;
};

struct Outputs {
  std::vector<float> o, lse, dq, dk, dv;
};

Outputs run(const Case& c, const Inputs& in) {
  const int64_t T = c.B * c.S;
  Outputs out{test::poisoned(c.q_size()), test::poisoned(T * c.H), test::poisoned(c.q_size()),
              test::poisoned(c.k_size()), test::poisoned(c.k_size())};
  const ConstTensor q = tensor(in.q, {T, c.H * c.C}), k = tensor(in.k, {T, c.G * c.C}),
                    v = tensor(in.v, {T, c.G * c.C});
  causal_attention_forward({.o_THC = tensor(out.o, {T, c.H * c.C}),
                            .lse_TH = tensor(out.lse, {T, c.H}),
                            .q_THC = q,
                            .k_TGC = k,
                            .v_TGC = v,
                            .document_starts = in.starts.data(),
                            .num_heads = c.H,
                            .num_kv_heads = c.G,
                            .head_dim = c.C,
                            .num_sequences = c.B,
                            .query_len = c.S,
                            .first_position = 0,
                            .key_stride = c.S,
                            .scale = c.scale()});
  causal_attention_backward({.dq_THC = tensor(out.dq, {T, c.H * c.C}),
                             .dk_TGC = tensor(out.dk, {T, c.G * c.C}),
                             .dv_TGC = tensor(out.dv, {T, c.G * c.C}),
                             .do_THC = tensor(in.dout, {T, c.H * c.C}),
                             .q_THC = q,
                             .k_TGC = k,
                             .v_TGC = v,
                             .o_THC = tensor(out.o, {T, c.H * c.C}),
                             .lse_TH = tensor(out.lse, {T, c.H}),
                             .document_starts = in.starts.data(),
                             .num_heads = c.H,
                             .num_kv_heads = c.G,
                             .head_dim = c.C,
                             .num_sequences = c.B,
                             .query_len = c.S,
                             .scale = c.scale()});
  return out;
}

}  // namespace

TEST_CASE("causal_attention: forward equals the reference") {
  test::for_each_cpu_target([] {
    for (const Case& c : kCases) {
      INFO("S ", c.S, " H ", c.H, " C ", c.C);
      Inputs in(c);
      Outputs out = run(c, in);
      Reference expected = reference(c, test::to_double(in.q), test::to_double(in.k), test::to_double(in.v));
      test::check_close(out.o, expected.o, 2e-6, "o");
      test::check_close(out.lse, expected.lse, 2e-6, "lse");
    }
  });
}

TEST_CASE("causal_attention: backward equals finite differences") {
  for (const Case& c : {Case{1, 7, 4, 2, 4, true}, Case{2, 5, 2, 1, 18, false}, Case{1, 66, 2, 1, 4, true}}) {
    Inputs in(c);
    Outputs out = run(c, in);
    auto q = test::to_double(in.q), k = test::to_double(in.k), v = test::to_double(in.v);
    auto loss = [&](const Reference& r) {
      double sum = 0;
      for (size_t i = 0; i < r.o.size(); ++i) sum += r.o[i] * static_cast<double>(in.dout[i]);
      return sum;
    };
    test::check_close(out.dq, test::finite_difference(q, [&](auto& x) { return loss(reference(c, x, k, v)); }), 1e-5,
                      "dq");
    test::check_close(out.dk, test::finite_difference(k, [&](auto& x) { return loss(reference(c, q, x, v)); }), 1e-5,
                      "dk");
    test::check_close(out.dv, test::finite_difference(v, [&](auto& x) { return loss(reference(c, q, k, x)); }), 1e-5,
                      "dv");
  }
}

TEST_CASE("causal_attention: the same bits for any number of threads and instruction set") {
  const Case c{2, 130, 4, 2, 24, true};
  Inputs in(c);
  Outputs first;
  for (int threads : {1, 3}) {
    ThreadPool pool(threads);
    pool.make_current();
    test::for_each_cpu_target([&] {
      Outputs out = run(c, in);
      if (first.o.empty()) first = out;
      test::check_same_bits(out.o, first.o, "o");
      test::check_same_bits(out.dq, first.dq, "dq");
      test::check_same_bits(out.dk, first.dk, "dk");
      test::check_same_bits(out.dv, first.dv, "dv");
    });
  }
}

TEST_CASE("causal_attention: a query alone, with its keys kept, gives the bits of the whole pass") {
  const Case c{2, 300, 4, 2, 20, true};
  Inputs in(c);
  Outputs whole = run(c, in);
  const int64_t width = c.H * c.C;
  for (int64_t query_len : {1, 3, 100}) {
    for (int64_t position : {0, 1, 63, 64, 199}) {
      std::vector<float> q, o = test::poisoned(c.B * query_len * width), lse = test::poisoned(c.B * query_len * c.H);
      std::vector<int32_t> starts;
      for (int64_t b = 0; b < c.B; ++b) {
        const int64_t row = b * c.S + position;
        q.insert(q.end(), in.q.begin() + row * width, in.q.begin() + (row + query_len) * width);
        starts.insert(starts.end(), in.starts.begin() + row, in.starts.begin() + row + query_len);
      }
      causal_attention_forward({.o_THC = tensor(o, {c.B * query_len, width}),
                                .lse_TH = tensor(lse, {c.B * query_len, c.H}),
                                .q_THC = tensor(q, {c.B * query_len, width}),
                                .k_TGC = tensor(in.k, {c.B * c.S, c.G * c.C}),
                                .v_TGC = tensor(in.v, {c.B * c.S, c.G * c.C}),
                                .document_starts = starts.data(),
                                .num_heads = c.H,
                                .num_kv_heads = c.G,
                                .head_dim = c.C,
                                .num_sequences = c.B,
                                .query_len = query_len,
                                .first_position = position,
                                .key_stride = c.S,
                                .scale = c.scale()});
      for (int64_t b = 0; b < c.B; ++b) {
        const int64_t row = b * c.S + position;
        test::check_same_bits({o.begin() + b * query_len * width, o.begin() + (b + 1) * query_len * width},
                              {whole.o.begin() + row * width, whole.o.begin() + (row + query_len) * width}, "o");
      }
    }
  }
}
