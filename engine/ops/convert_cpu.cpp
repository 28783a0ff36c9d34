#include "engine/core/thread_pool.h"
#include "engine/ops/convert.h"

namespace engine::ops::SIMD_TARGET {
namespace {

float read(const ConstTensor& x, int64_t i) {
  if (x.dtype == DType::f32) return x.f32()[i];
  return __builtin_bit_cast(float, static_cast<uint32_t>(static_cast<const uint16_t*>(x.data)[i]) << 16);
}

void write(const Tensor& y, int64_t i, float value) {
  if (y.dtype == DType::f32) {
    y.f32()[i] = value;
    return;
  }
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  const uint32_t rounded = value != value ? bits | 0x400000u : bits + 0x7fffu + ((bits >> 16) & 1u);
  static_cast<uint16_t*>(y.data)[i] = static_cast<uint16_t>(rounded >> 16);
}

}  // namespace

void convert(const Convert& a) {
  parallel_ranges(a.x_TD.num_elements(), 16384, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) write(a.y_TD, i, read(a.x_TD, i));
  });
}

}  // namespace engine::ops::SIMD_TARGET
