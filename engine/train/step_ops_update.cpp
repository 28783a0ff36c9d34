#include <algorithm>

#include "engine/core/transfer.h"
#include "engine/ops/adamw.h"
#include "engine/ops/convert.h"
#include "engine/ops/squared_norm.h"
#include "engine/train/step_op_list.h"

namespace engine::train {
namespace {

constexpr const char *kReduce = "reduce", *kOptimizer = "optimizer";

// Of a rank's shard, up to 2^24 elements at a time. Gradients are exact sums, or chains.
void add_shard(StepOpList& list, const std::string& what, int64_t elements, bool has_sums) {
  if (elements == 0) return;
  const int64_t n = std::min<int64_t>(elements, 1 << 24);
  const double bytes = has_sums ? 8 : 4, calls = static_cast<double>(elements) / static_cast<double>(n);
  const auto gradient = [=](Operands& o) {
    const WeightGradient parts = o.gradient({n});
    return has_sums ? Tensor(parts.sum, DType::f64, {n}, parts.chain.device) : parts.chain;
  };
  list.add({.name = "squared_norm, " + what, .phase = kReduce, .calls = calls, .bytes = bytes * static_cast<double>(n)},
           [=](Operands& o, comm::ParallelGroups&) {
             const ops::SquaredNorm a{.block_sums = o.gradient({n / 4096 + 1}).sum, .x_N = gradient(o), .block = 4096};
             return [a] { ops::squared_norm(a); };
           });
  list.add(
      {.name = "adamw, " + what,
       .phase = kOptimizer,
       .calls = calls,
       .bytes = (24 + 2 * bytes) * static_cast<double>(n)},
      [=](Operands& o, comm::ParallelGroups&) {
        const ops::AdamW a{
            .weight_N = o.f32({n}), .m_N = o.f32({n}), .v_N = o.f32({n}, 0.5), .gradient_N = gradient(o), .lr = 1e-4f};
        return [a] { ops::adamw(a); };
      });
}

// Exact sums that are another rank's are cleared, `elements` at a time.
void add_clearing(StepOpList& list, const std::string& what, int64_t elements) {
  if (elements == 0) return;
  const int64_t n = std::min<int64_t>(elements, 1 << 24);
  list.add({.name = "clearing of sums, " + what,
            .phase = kReduce,
            .calls = static_cast<double>(elements) / static_cast<double>(n),
            .bytes = 8 * static_cast<double>(n)},
           [=](Operands& o, comm::ParallelGroups&) {
             const Tensor sums = o.f32({2 * n});
             return [=] { set_zero(sums); };
           });
}

// On a GPU in bf16, once a step.
void add_conversion(StepOpList& list, int64_t elements) {
  const int64_t n = std::min<int64_t>(elements, 1 << 24);
  list.add({.name = "conversion of weights",
            .phase = kOptimizer,
            .calls = static_cast<double>(elements) / static_cast<double>(n),
            .bytes = 6 * static_cast<double>(n)},
           [=](Operands& o, comm::ParallelGroups&) {
             const ops::Convert a{.y_TD = o.rows({n}), .x_TD = o.f32({n})};
             return [a] { ops::convert(a); };
           });
}

void add_small_sums(StepOpList& list, const std::string& name, const char* phase, int64_t count, double calls) {
  const double ranks = static_cast<double>(list.shapes().layout.ranks);
  list.add({.name = name,
            .phase = phase,
            .limit = Limit::link_world,
            .calls = calls,
            .bytes = 8 * static_cast<double>(count) * 2 * (ranks - 1) / ranks},
           [=](Operands& o, comm::ParallelGroups& groups) {
             const Tensor sums(o.gradient({count}).sum, DType::f64, {count});
             comm::Group* world = groups.world.get();
             return [=] { world->all_reduce_sum(sums).wait(); };
           });
}

comm::Group* group_of(Limit limit, comm::ParallelGroups& groups) {
  return limit == Limit::link_world ? groups.world.get() : groups.expert_dp.get();
}

// Exact sums are scattered over the ranks that hold a weight; when they have updated it, it is gathered from them.
class Reduction {
 public:
  Reduction(StepOpList& list, std::string what, int64_t elements, int64_t ranks, Limit limit)
      : list_(list), what_(std::move(what)), limit_(limit) {
    if (ranks == 1 || elements == 0) return;
    n_ = std::min<int64_t>(elements, 1 << 24) / ranks * ranks;
    calls_ = static_cast<double>(elements) / static_cast<double>(n_);
    others_ = static_cast<double>(n_) * static_cast<double>(ranks - 1) / static_cast<double>(ranks);
    for (int64_t r = 0; r <= ranks; ++r) begins_.push_back(n_ / ranks * r);
  }

  void add_scatter() {
    list_.add(
        {.name = "reduce_scatter, " + what_, .phase = kReduce, .limit = limit_, .calls = calls_, .bytes = 8 * others_},
        [n = n_, begins = begins_, limit = limit_](Operands& o, comm::ParallelGroups& groups) {
          comm::Group* group = group_of(limit, groups);
          const size_t rank = static_cast<size_t>(group->rank());
          double* sums = o.gradient({n}).sum;
          const Tensor out(sums + begins[rank], DType::f64, {begins[rank + 1] - begins[rank]});
          return [=] { group->reduce_scatter_sum(out, ConstTensor(sums, DType::f64, {n}), begins).wait(); };
        });
  }

  void add_gather() {
    list_.add(
        {.name = "all_gather, " + what_, .phase = kOptimizer, .limit = limit_, .calls = calls_, .bytes = 4 * others_},
        [n = n_, begins = begins_, limit = limit_](Operands& o, comm::ParallelGroups& groups) {
          comm::Group* group = group_of(limit, groups);
          const Tensor weights = o.f32({n});
          return [=] { group->all_gather_v(weights, begins).wait(); };
        });
  }

 private:
  StepOpList& list_;
  std::string what_;
  Limit limit_;
  int64_t n_ = 0;  // elements of one call
  double calls_ = 0, others_ = 0;
  std::vector<int64_t> begins_;
};

}  // namespace

void add_update_ops(StepOpList& list, const Config& config) {
  const StepShapes& s = list.shapes();
  const int64_t ranks = s.layout.ranks, replicas = ranks / s.layout.ep_size;
  const bool has_sums = config.train.granules > 1;
  list.begin_full_precision();
  Reduction dense(list, "dense", s.dense, has_sums ? ranks : 1, Limit::link_world);
  Reduction experts(list, "experts", s.expert, has_sums ? replicas : 1, Limit::link_expert_dp);
  dense.add_scatter();
  experts.add_scatter();
  if (has_sums) add_clearing(list, "dense", s.dense - s.dense / ranks);
  if (has_sums) add_clearing(list, "experts", s.expert - s.expert / replicas);
  add_shard(list, "dense", s.dense / ranks, has_sums);
  add_shard(list, "experts", s.expert / replicas, has_sums);
  if (s.layout.element_bytes < 4) add_conversion(list, s.dense + s.expert);
  dense.add_gather();
  experts.add_gather();
  if (ranks == 1) return;
  // losses, norms and bounds; then what the MoE layers counted and added up
  add_small_sums(list, "sums of scalars", kReduce, s.dense / 4096 + s.expert / 4096 + s.G, 3);
  const int64_t moe_layers = s.model.num_moe_layers();
  if (moe_layers > 0) {
    add_small_sums(list, "sums of balance statistics", "balance", moe_layers * s.G * (s.model.num_experts + 3), 2);
  }
}

}  // namespace engine::train
