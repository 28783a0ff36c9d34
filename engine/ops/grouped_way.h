// How a GPU does the products of a rank's experts. A CPU has one way, whatever is asked for.
//
//   one_stream  a product of cuBLASLt for each expert, one after the other
//   streams     the same products on the side streams of a DeviceFork, so that the end of one and the beginning of the
//               next may share the GPU: the same bits, and a workspace for each side stream
//   batched     one call of cuBLAS for all experts, cublasGemmGroupedBatchedEx. Its kernels are its own, and so may be
//               its bits
//
// batched multiplies f32 to f32 and bf16 to bf16. A group that it does not take is done as one_stream: weight gradients
// of bf16, whose results are f32, and bf16 matrices that begin where its kernels cannot read (cuda_grouped_gemm.h).
#pragma once

#include "engine/core/dtype.h"

namespace engine::ops {

enum class GroupedWay : uint8_t { one_stream, streams, batched };
inline constexpr GroupedWay kGroupedWays[] = {GroupedWay::one_stream, GroupedWay::streams, GroupedWay::batched};

// The way in use, unless an op's arguments name another. To be chosen by what `bench ops --device cuda` measures of all
// three at configs/bench_h200.json; no GPU has done so yet, so it is the one that has run on GPUs.
inline constexpr GroupedWay kGroupedWay = GroupedWay::one_stream;

constexpr const char* grouped_way_name(GroupedWay way) {
  switch (way) {
    case GroupedWay::one_stream:
      return "one_stream";
    case GroupedWay::streams:
      return "streams";
    case GroupedWay::batched:
      return "batched";
  }
  return "?";
}

// Whether the way multiplies operands of one type to results of another.
constexpr bool grouped_way_takes(GroupedWay way, DType operands, DType results) {
  return way != GroupedWay::batched || operands == results;
}

}  // namespace engine::ops
