// What a GPU reaches, for benchmarks: the limits that ops there are measured against.
#pragma once

#include "engine/core/tensor.h"

namespace engine::ops {

// GFLOP/s of a product of 8192 x 8192 matrices of random numbers, stored so.
double measure_product_gflops(DType storage);
// Bytes read and written per second by a copy of 1 GiB.
double measure_copy_bytes_per_second();

}  // namespace engine::ops
