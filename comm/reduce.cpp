#include "comm/reduce.h"

#include <type_traits>

#include "engine/core/error.h"
#include "engine/core/thread_pool.h"

namespace comm {
namespace {

template <class T, class Combine>
void combine_ranks(void* out, std::span<const char* const> parts, int64_t count, Combine combine) {
  engine::parallel_ranges(count, int64_t{1} << 15, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T total = reinterpret_cast<const T*>(parts[0])[i];
      for (size_t r = 1; r < parts.size(); ++r) total = combine(total, reinterpret_cast<const T*>(parts[r])[i]);
      static_cast<T*>(out)[i] = total;
    }
  });
}

template <class T>
T add(T a, T b) {
  if constexpr (std::is_integral_v<T>)
    return static_cast<T>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));  // wraps
  return a + b;
}

template <class T>
void reduce(void* out, std::span<const char* const> parts, int64_t count, Reduction reduction) {
  if (reduction == Reduction::sum) {
    combine_ranks<T>(out, parts, count, add<T>);
  } else {
    combine_ranks<T>(out, parts, count, [](T a, T b) { return a > b ? a : b; });
  }
}

}  // namespace

void reduce_ranks(void* out, std::span<const char* const> parts, int64_t count, engine::DType dtype,
                  Reduction reduction) {
  switch (dtype) {
    case engine::DType::f64:
      return reduce<double>(out, parts, count, reduction);
    case engine::DType::f32:
      return reduce<float>(out, parts, count, reduction);
    case engine::DType::i64:
      return reduce<int64_t>(out, parts, count, reduction);
    default:
      ENSURE(false, "no reduction of ", engine::dtype_name(dtype));
  }
}

}  // namespace comm
