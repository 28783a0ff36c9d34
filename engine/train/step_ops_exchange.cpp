#include "engine/train/step_op_list.h"
#include "moe/permute.h"

// Rows between ranks: one for each (token, rank) on the way to experts, one for each (token, slot) on the way home.
namespace engine::train {
namespace {

// `rows` rows spread evenly over the ranks of ep, there and as many from there.
void add_all_to_all(StepOpList& list, const std::string& name, int64_t rows, int64_t columns, double calls) {
  const int64_t ranks = list.shapes().layout.ep_size, each = rows / ranks;
  list.add({.name = name,
            .phase = "dispatch",
            .limit = Limit::link_ep,
            .calls = calls,
            .bytes = 4 * static_cast<double>(each * (ranks - 1) * columns)},
           [=](Operands& o, comm::ParallelGroups& groups) {
             const Tensor in = o.f32({each * ranks, columns}), out = o.f32({each * ranks, columns});
             const std::vector<int64_t> counts(static_cast<size_t>(ranks), each);
             comm::Group* ep = groups.ep.get();
             return [=] { ep->all_to_all_v(out, counts, in, counts).wait(); };
           });
}

void add_permute(StepOpList& list, const std::string& name, int64_t rows, int64_t from, double calls) {
  const int64_t D = list.shapes().model.hidden_size;
  list.add(
      {.name = name, .phase = "dispatch", .calls = calls, .bytes = 8 * static_cast<double>(rows * D)},
      [=](Operands& o, comm::ParallelGroups&) {
        const moe::Permute a{.y_ND = o.rows({rows, D}), .x_TD = o.rows({from, D}), .rows = o.i32({rows}, from).i32()};
        return [a] { moe::permute(a); };
      });
}

}  // namespace

void add_exchange_ops(StepOpList& list) {
  const StepShapes& s = list.shapes();
  if (s.layout.ep_size == 1 || s.moe_layers == 0) return;
  const double calls = s.moe_layers * static_cast<double>(s.passes);
  const int64_t D = s.model.hidden_size, K = s.model.num_experts_per_tok, pairs = s.T * K;
  add_all_to_all(list, "exchange of counts", s.layout.ep_size, 4, calls);
  add_permute(list, "permute to send", s.N, s.T, 2 * calls);
  add_all_to_all(list, "exchange of tokens", s.N, D, 2 * calls);           // and of dy
  add_all_to_all(list, "exchange of routing weights", s.N, K, 2 * calls);  // and of their gradients
  add_permute(list, "permute to return", s.R, s.R, 2 * calls);
  add_all_to_all(list, "return of rows", pairs, D, 2 * calls);
}

}  // namespace engine::train
