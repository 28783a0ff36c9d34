// Rows go to the ranks of their experts and come home, on 1 to 8 ranks, with uneven experts and with ranks without
// work.
#include "moe/token_dispatcher.h"

#include <cmath>
#include <mutex>
#include <numeric>

#include "comm/parallel_groups.h"
#include "comm/thread_group.h"
#include "tests/support/compare.h"

namespace {

using namespace engine;
using moe::TokenDispatcher;
using test::tensor;

constexpr int64_t kExperts = 8, kSlots = 2, kHidden = 3, kTokensPerGranule = 5, kGranules = 8;

// Slot k of token t of all; some slots and some whole tokens are dropped, and expert 6 gets nothing.
int32_t choice(int64_t t, int64_t k) {
  if (t % 11 == 5 || (t % 7 == 3 && k == 1)) return -1;
  const int64_t expert = (t * 3 + k * (1 + t % 4)) % kExperts;
  return static_cast<int32_t>(expert == 6 ? 7 : expert);
}
float x_of(int64_t t, int64_t d) {
  return test::value(3, t * kHidden + d);
}
float weight_of(int64_t t, int64_t k) {
  return test::value(4, t * kSlots + k);
}

// Whole exchanges, chunk by chunk.
void dispatch(TokenDispatcher& dispatcher, ConstTensor x_TD, Tensor rows_RD) {
  dispatcher.start_dispatch(x_TD);
  for (int64_t c = 0; c < dispatcher.num_chunks(); ++c) dispatcher.finish_dispatch(c, rows_RD);
}
void combine(TokenDispatcher& dispatcher, ConstTensor rows_RD, ConstTensor weights_TK, Tensor y_TD) {
  for (int64_t c = 0; c < dispatcher.num_chunks(); ++c) dispatcher.start_combine(c, rows_RD);
  dispatcher.finish_combine(weights_TK, y_TD);
}
void combine_backward(TokenDispatcher& dispatcher, ConstTensor dy_TD, ConstTensor weights_TK, ConstTensor rows_RD,
                      Tensor drows_RD, Tensor dweights_TK) {
  dispatcher.start_combine_backward(dy_TD, weights_TK);
  for (int64_t c = 0; c < dispatcher.num_chunks(); ++c) dispatcher.finish_combine_backward(c, drows_RD);
  dispatcher.weights_backward(dy_TD, rows_RD, dweights_TK);
}
void dispatch_backward(TokenDispatcher& dispatcher, ConstTensor drows_RD, Tensor dx_TD) {
  for (int64_t c = 0; c < dispatcher.num_chunks(); ++c) dispatcher.start_dispatch_backward(c, drows_RD);
  dispatcher.finish_dispatch_backward(dx_TD);
}

// This rank's granules, dispatched; `body` sees the dispatcher and the rank's tokens.
template <class Body>
void on_ranks_in_chunks(int ranks, int64_t chunks, Body body) {
  comm::run_thread_ranks(ranks, 1, [&](std::unique_ptr<comm::Group> ep) {
    const int64_t begin = (ep->rank() * kGranules + ranks - 1) / ranks;
    const int64_t end = std::min<int64_t>(kGranules, ((ep->rank() + 1) * kGranules + ranks - 1) / ranks);
    const int64_t T = (end - begin) * kTokensPerGranule, first = begin * kTokensPerGranule;
    TokenDispatcher dispatcher(*ep, kExperts, kSlots, kHidden, {}, chunks);
    dispatcher.reserve({.max_rows = kGranules * kTokensPerGranule});
    std::vector<int32_t> idx;
    std::vector<float> x, weights;
    std::vector<int64_t> offsets{0}, numbers;
    for (int64_t t = first; t < first + T; ++t) {
      for (int64_t k = 0; k < kSlots; ++k) idx.push_back(choice(t, k)), weights.push_back(weight_of(t, k));
      for (int64_t d = 0; d < kHidden; ++d) x.push_back(x_of(t, d));
    }
    for (int64_t g = begin; g < end; ++g) {
      numbers.push_back(g);
      offsets.push_back(offsets.back() + kTokensPerGranule);
    }
    nn::Pass pass;
    pass.num_sequences = end - begin;
    pass.seq_len = kTokensPerGranule;
    pass.granules = {offsets.data(), end - begin, true};
    pass.granule_numbers = numbers.data();
    dispatcher.route(pass, ConstTensor(idx.data(), DType::i32, {T, kSlots}));
    std::vector<float> rows = test::poisoned(dispatcher.num_rows() * kHidden);
    dispatch(dispatcher, tensor(x, {T, kHidden}), tensor(rows, {dispatcher.num_rows(), kHidden}));
    body(*ep, dispatcher, first, x, weights, rows);
  });
}

constexpr int kChunkings = 3;
template <class Body>
void on_ranks(int ranks, Body body) {
  for (int64_t chunks = 1; chunks <= kChunkings; ++chunks) on_ranks_in_chunks(ranks, chunks, body);
}

}  // namespace

TEST_CASE("token_dispatcher: an expert's rows are its tokens in global order, granule by granule, on any ranks") {
  for (int ranks = 1; ranks <= 8; ++ranks) {
    INFO(ranks, " ranks");
    std::vector<int> held(kExperts);
    on_ranks(ranks, [&](comm::Group& ep, TokenDispatcher& dispatcher, int64_t, auto&, auto&, auto& rows) {
      const comm::ExpertRange experts = comm::experts_of_rank(kExperts, ep.rank(), ranks);
      CHECK(dispatcher.num_granules() == kGranules);
      for (int64_t e = experts.begin; e < experts.end; ++e) {
        ++held[static_cast<size_t>(e)];
        int64_t row = dispatcher.offsets()[e - experts.begin];
        const int64_t* granules = dispatcher.granule_offsets() + (e - experts.begin) * (kGranules + 1);
        for (int64_t g = 0; g < kGranules; ++g) {
          CHECK(granules[g] == row);
          for (int64_t t = g * kTokensPerGranule; t < (g + 1) * kTokensPerGranule; ++t) {
            for (int64_t k = 0; k < kSlots; ++k) {
              if (choice(t, k) != e) continue;
              for (int64_t d = 0; d < kHidden; ++d) CHECK(rows[static_cast<size_t>(row * kHidden + d)] == x_of(t, d));
              ++row;
            }
          }
        }
        CHECK(granules[kGranules] == row);
        CHECK(dispatcher.offsets()[e - experts.begin + 1] == row);
      }
    });
    CHECK(held == std::vector<int>(kExperts, kChunkings));
  }
}

TEST_CASE("token_dispatcher: dispatch and combine are the identity on weights 1/2, and their gradients too") {
  for (int ranks = 1; ranks <= 8; ++ranks) {
    INFO(ranks, " ranks");
    on_ranks(ranks, [&](comm::Group&, TokenDispatcher& dispatcher, int64_t first, auto& x, auto&, auto& rows) {
      const int64_t T = static_cast<int64_t>(x.size()) / kHidden, R = dispatcher.num_rows();
      const std::vector<float> half(static_cast<size_t>(T * kSlots), 0.5f);
      std::vector<float> y = test::poisoned(T * kHidden);
      combine(dispatcher, tensor(rows, {R, kHidden}), tensor(half, {T, kSlots}), tensor(y, {T, kHidden}));
      std::vector<float> drows = test::poisoned(R * kHidden), dx = test::poisoned(T * kHidden);
      std::vector<float> dweights = test::poisoned(T * kSlots);
      combine_backward(dispatcher, tensor(x, {T, kHidden}), tensor(half, {T, kSlots}), tensor(rows, {R, kHidden}),
                       tensor(drows, {R, kHidden}), tensor(dweights, {T, kSlots}));
      dispatch_backward(dispatcher, tensor(drows, {R, kHidden}), tensor(dx, {T, kHidden}));
      for (int64_t t = 0; t < T; ++t) {
        float kept = 0, square = 0;
        for (int64_t k = 0; k < kSlots; ++k) kept += choice(first + t, k) >= 0 ? 0.5f : 0.0f;
        for (int64_t d = 0; d < kHidden; ++d) {
          const float value = x[static_cast<size_t>(t * kHidden + d)];
          square += value * value;
          CHECK(y[static_cast<size_t>(t * kHidden + d)] == kept * value);
          CHECK(dx[static_cast<size_t>(t * kHidden + d)] == kept * value);
        }
        for (int64_t k = 0; k < kSlots; ++k) {  // <dy, expert_out>, and nothing where the choice was dropped
          CHECK(dweights[static_cast<size_t>(t * kSlots + k)] ==
                doctest::Approx(choice(first + t, k) >= 0 ? square : 0.0f).epsilon(1e-6));
        }
      }
    });
  }
}

TEST_CASE("token_dispatcher: rows of gradients carry the weight of their own slot") {
  for (int ranks : {1, 3, 8}) {
    on_ranks(ranks, [&](comm::Group& ep, TokenDispatcher& dispatcher, int64_t, auto& x, auto& weights, auto& rows) {
      const int64_t T = static_cast<int64_t>(x.size()) / kHidden, R = dispatcher.num_rows();
      std::vector<float> drows = test::poisoned(R * kHidden), dweights = test::poisoned(T * kSlots);
      combine_backward(dispatcher, tensor(x, {T, kHidden}), tensor(weights, {T, kSlots}), tensor(rows, {R, kHidden}),
                       tensor(drows, {R, kHidden}), tensor(dweights, {T, kSlots}));
      const comm::ExpertRange experts = comm::experts_of_rank(kExperts, ep.rank(), ranks);
      int64_t row = 0;
      for (int64_t e = experts.begin; e < experts.end; ++e) {
        for (int64_t t = 0; t < kGranules * kTokensPerGranule; ++t) {
          for (int64_t k = 0; k < kSlots; ++k) {
            if (choice(t, k) != e) continue;
            for (int64_t d = 0; d < kHidden; ++d) {
              CHECK(drows[static_cast<size_t>(row * kHidden + d)] == weight_of(t, k) * x_of(t, d));
            }
            ++row;
          }
        }
      }
      CHECK(row == R);
    });
  }
}

// Summed over ranks, <A x, r> = <x, B r>, for random numbers: B is the gradient of A.
TEST_CASE("token_dispatcher: dispatch and the gradient of dispatch are adjoint, and so are those of combine") {
  for (int ranks = 1; ranks <= 8; ++ranks) {
    INFO(ranks, " ranks");
    std::mutex mutex;
    double there = 0, back = 0, combined = 0, weighted = 0;
    on_ranks(ranks, [&](comm::Group& ep, TokenDispatcher& dispatcher, int64_t, auto& x, auto& weights, auto& rows) {
      const int64_t T = static_cast<int64_t>(x.size()) / kHidden, R = dispatcher.num_rows();
      const uint64_t seed = static_cast<uint64_t>(100 + ep.rank());
      const std::vector<float> r = test::values(seed, R * kHidden), dy = test::values(seed + 50, T * kHidden);
      std::vector<float> dx = test::poisoned(T * kHidden), y = dx, dr = test::poisoned(R * kHidden);
      std::vector<float> dweights = test::poisoned(T * kSlots);
      dispatch_backward(dispatcher, tensor(r, {R, kHidden}), tensor(dx, {T, kHidden}));
      combine(dispatcher, tensor(r, {R, kHidden}), tensor(weights, {T, kSlots}), tensor(y, {T, kHidden}));
      combine_backward(dispatcher, tensor(dy, {T, kHidden}), tensor(weights, {T, kSlots}), tensor(r, {R, kHidden}),
                       tensor(dr, {R, kHidden}), tensor(dweights, {T, kSlots}));
      auto dot = [](const std::vector<float>& a, const std::vector<float>& b) {
        double sum = 0;
        for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
        return sum;
      };
      std::lock_guard lock(mutex);
      there += dot(rows, r), back += dot(x, dx);
      combined += dot(y, dy), weighted += dot(r, dr);
    });
    CHECK(there == doctest::Approx(back).epsilon(1e-6));
    CHECK(combined == doctest::Approx(weighted).epsilon(1e-6));
    CHECK(std::abs(there) > 1e-3);
    CHECK(std::abs(combined) > 1e-3);
  }
}

TEST_CASE("token_dispatcher: more rows than planned for grow the room and are counted") {
  comm::run_thread_ranks(2, 1, [](std::unique_ptr<comm::Group> ep) {
    TokenDispatcher dispatcher(*ep, 2, 1, kHidden);
    const int64_t T = 6;
    dispatcher.reserve({.max_rows = T});
    const std::vector<int32_t> idx(static_cast<size_t>(T), 1);  // all to the second rank
    const std::vector<int64_t> offsets{0, T};
    const int64_t number = ep->rank();
    nn::Pass pass;
    pass.granules = {offsets.data(), 1, true};
    pass.granule_numbers = &number;
    CHECK(dispatcher.growths() == 0);
    dispatcher.route(pass, ConstTensor(idx.data(), DType::i32, {T, 1}));
    CHECK(dispatcher.num_rows() == (ep->rank() == 1 ? 2 * T : 0));
    const auto x = test::values(5, T * kHidden);
    std::vector<float> rows = test::poisoned(dispatcher.num_rows() * kHidden);
    dispatch(dispatcher, tensor(x, {T, kHidden}), tensor(rows, {dispatcher.num_rows(), kHidden}));
    CHECK(dispatcher.growths() == (ep->rank() == 1 ? 1 : 0));
  });
}
