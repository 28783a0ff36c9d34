// A description of machines, as a plan needs it: what one rank computes, reads, sends and holds.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "engine/config/fields.h"

namespace engine {

// Between two ranks, as each of them sees it.
struct LinkConfig {
  double bytes_per_second = 10e9;
  double latency = 1e-5;

  template <class Visitor>
  void fields(Visitor& v) {
    v("bytes_per_second", bytes_per_second, above(0.0), "what a rank sends while it receives as much");
    v("latency", latency, at_least(0.0), "seconds until a collective without data is over");
  }
};

// What ops reach of the limit that they are held against.
struct EfficiencyConfig {
  double matmul = 0.7;
  double grouped_matmul = 0.6;
  double attention = 0.5;
  double memory = 0.8;

  template <class Visitor>
  void fields(Visitor& v) {
    v("matmul", matmul, above(0.0), "products with one weight, of flops_per_second");
    v("grouped_matmul", grouped_matmul, above(0.0), "products of the experts, of flops_per_second");
    v("attention", attention, above(0.0), "attention, of flops_per_second");
    v("memory", memory, above(0.0), "everything else, of memory_bytes_per_second");
  }
};

struct ClusterConfig {
  std::string name = "cluster";
  int64_t ranks = 1;
  int64_t ranks_per_node = 1;
  double flops_per_second = 1e11;
  double memory_bytes_per_second = 2e10;
  ByteCount memory{int64_t{16} << 30};
  int64_t element_bytes = 4;
  double op_seconds = 0;
  EfficiencyConfig efficiency;
  LinkConfig in_node, between_nodes;
  std::optional<double> price_per_hour;

  template <class Visitor>
  void fields(Visitor& v) {
    v("name", name, any(), "what reports call it");
    v("ranks", ranks, at_least(1), "ranks, one for each processor or GPU");
    v("ranks_per_node", ranks_per_node, at_least(1), "ranks of one machine");
    v("flops_per_second", flops_per_second, above(0.0), "peak of one rank at the precision of its products");
    v("memory_bytes_per_second", memory_bytes_per_second, above(0.0), "of one rank");
    v("memory", memory, at_least(1.0), "of one rank, e.g. \"80 GB\"");
    v("element_bytes", element_bytes, between(2, 4), "of an activation and of a packed weight: 4, or 2 on GPUs");
    v("op_seconds", op_seconds, at_least(0.0), "that the start of an op costs");
    v("efficiency", efficiency, any(), "what is reached of the peaks");
    v("in_node", in_node, any(), "link between ranks of one machine");
    v("between_nodes", between_nodes, any(), "link between machines");
    v("price_per_hour", price_per_hour, at_least(0.0), "of one rank, in any currency");
  }
};

// The description in a file; throws Error(usage) with every problem in it.
ClusterConfig load_cluster(const std::string& path);

}  // namespace engine
