// Tensor and ConstTensor: views of memory somebody else owns, row-major, at most four dimensions.
//
// Names of tensors end in their dimensions, one legend for the whole project:
//   T tokens of a pass   S sequence length   V vocabulary   D hidden size   L layers
//   H query heads        G key/value heads   C head size
//   E experts            e experts of this rank             K experts per token
//   F expert width       N rows sent         R rows received, sorted by expert
//
// Accessors are always inlined: kernel files are compiled once per instruction set, and a function shared
// between them would be linked from whichever came first.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "engine/core/dtype.h"

#define ALWAYS_INLINE [[gnu::always_inline]] inline

namespace engine {

template <class Void, template <class> class Pointer>
struct BasicTensor {
  Void* data = nullptr;
  DType dtype = DType::f32;
  Device device = Device::cpu;
  int num_dims = 0;
  int64_t dims[4] = {1, 1, 1, 1};
  int64_t row_stride = 0;  // elements from one index of dims[0] to the next; more than a row in a column slice

  ALWAYS_INLINE Pointer<float> f32() const { return static_cast<Pointer<float>>(data); }
  ALWAYS_INLINE Pointer<double> f64() const { return static_cast<Pointer<double>>(data); }
  ALWAYS_INLINE Pointer<int32_t> i32() const { return static_cast<Pointer<int32_t>>(data); }
  ALWAYS_INLINE Pointer<int64_t> i64() const { return static_cast<Pointer<int64_t>>(data); }
  ALWAYS_INLINE Pointer<uint8_t> u8() const { return static_cast<Pointer<uint8_t>>(data); }

  ALWAYS_INLINE explicit operator bool() const { return data != nullptr; }
  ALWAYS_INLINE int64_t rows() const { return dims[0]; }
  ALWAYS_INLINE int64_t columns() const { return dims[1] * dims[2] * dims[3]; }  // elements of one row
  ALWAYS_INLINE int64_t num_elements() const { return rows() * columns(); }
  ALWAYS_INLINE bool is_contiguous() const { return row_stride == columns() || rows() <= 1; }
};

template <class T>
using MutablePointer = T*;
template <class T>
using ConstPointer = const T*;

struct Tensor : BasicTensor<void, MutablePointer> {
  ALWAYS_INLINE Tensor() = default;
  ALWAYS_INLINE Tensor(void* memory, DType type, std::initializer_list<int64_t> sizes, Device where = Device::cpu) {
    data = memory;
    dtype = type;
    device = where;
    for (int64_t size : sizes) dims[num_dims++] = size;
    row_stride = columns();
  }

  // Rows [begin, begin + count) of the same columns.
  ALWAYS_INLINE Tensor slice_rows(int64_t begin, int64_t count) const {
    Tensor view = *this;
    view.data = static_cast<char*>(data) + begin * row_stride * dtype_bytes(dtype);
    view.dims[0] = count;
    return view;
  }
  // Columns [begin, begin + count) of every row of a matrix.
  ALWAYS_INLINE Tensor slice_columns(int64_t begin, int64_t count) const {
    Tensor view = *this;
    view.data = static_cast<char*>(data) + begin * dtype_bytes(dtype);
    view.dims[1] = count;
    return view;
  }
};

struct ConstTensor : BasicTensor<const void, ConstPointer> {
  ALWAYS_INLINE ConstTensor() = default;
  ALWAYS_INLINE ConstTensor(const void* memory, DType type, std::initializer_list<int64_t> sizes,
                            Device where = Device::cpu) {
    data = memory;
    dtype = type;
    device = where;
    for (int64_t size : sizes) dims[num_dims++] = size;
    row_stride = columns();
  }
  ALWAYS_INLINE ConstTensor(const Tensor& t) {  // NOLINT: a tensor is readable
    data = t.data;
    dtype = t.dtype;
    device = t.device;
    num_dims = t.num_dims;
    for (int d = 0; d < 4; ++d) dims[d] = t.dims[d];
    row_stride = t.row_stride;
  }
  ALWAYS_INLINE ConstTensor slice_rows(int64_t begin, int64_t count) const {
    ConstTensor view = *this;
    view.data = static_cast<const char*>(data) + begin * row_stride * dtype_bytes(dtype);
    view.dims[0] = count;
    return view;
  }
};

}  // namespace engine
