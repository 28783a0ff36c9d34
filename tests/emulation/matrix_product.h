// Column-major matrices in device memory and their product, for the stand-ins of cuBLAS and cuBLASLt.
#pragma once

#include <cublas_v2.h>
#include <cuda_bf16.h>

#include "tests/emulation/stream.h"

namespace emulation {

struct MatrixLayout {
  cudaDataType type;
  int64_t rows, columns, step;
};

struct Matrix {
  const void* data;
  MatrixLayout layout;

  float load(int64_t row, int64_t column) const {
    const int64_t i = row + column * layout.step;
    return layout.type == CUDA_R_32F ? static_cast<const float*>(data)[i]
                                     : __bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]);
  }
  void store(int64_t row, int64_t column, float value) const {
    void* to = const_cast<void*>(data);
    const int64_t i = row + column * layout.step;
    if (layout.type == CUDA_R_32F) {
      static_cast<float*>(to)[i] = value;
    } else {
      static_cast<__nv_bfloat16*>(to)[i] = __float2bfloat16(value);
    }
  }
  int64_t element_bytes() const { return layout.type == CUDA_R_32F ? 4 : 2; }
  // Column by column: what lies between them belongs to others.
  template <class Touch>
  void touch(Touch range) const {
    for (int64_t j = 0; j < layout.columns; ++j) {
      range(static_cast<const char*>(data) + j * layout.step * element_bytes(),
            static_cast<size_t>(layout.rows * element_bytes()));
    }
  }
};

// d = alpha * a * b + beta * d, called by an operation of a stream; `depth` is the length of the sums.
inline void product(const Matrix& a, bool a_transposed, const Matrix& b, bool b_transposed, float alpha, float beta,
                    const Matrix& d, int64_t depth) {
  a.touch(device_read);
  b.touch(device_read);
  if (beta != 0) d.touch(device_read);
  d.touch(device_written);
  for (int64_t j = 0; j < d.layout.columns; ++j) {
    for (int64_t i = 0; i < d.layout.rows; ++i) {
      float sum = 0;
      for (int64_t k = 0; k < depth; ++k) {
        sum += (a_transposed ? a.load(k, i) : a.load(i, k)) * (b_transposed ? b.load(j, k) : b.load(k, j));
      }
      d.store(i, j, alpha * sum + (beta == 0 ? 0.0f : beta * d.load(i, j)));
    }
  }
}

}  // namespace emulation
