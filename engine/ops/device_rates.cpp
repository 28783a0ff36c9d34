#include "engine/ops/device_rates.h"

#include "engine/core/buffer.h"
#include "engine/core/device.h"
#include "engine/core/profiler.h"
#include "engine/core/rng.h"
#include "engine/core/transfer.h"
#include "engine/ops/convert.h"
#include "engine/ops/matmul.h"

namespace engine::ops {
namespace {

// An emulated device multiplies at the speed of a loop: smaller there.
#if defined(SWITCHYARD_EMULATED)
constexpr int64_t kSize = 64, kCopied = int64_t{1} << 20;
#else
constexpr int64_t kSize = 8192, kCopied = int64_t{1} << 30;
#endif

// Seconds of a call, on average over some that are queued together.
template <class Run>
double seconds_of(int times, Run run) {
  run();
  device_synchronize();
  const double start = monotonic_seconds();
  for (int i = 0; i < times; ++i) run();
  device_synchronize();
  return (monotonic_seconds() - start) / times;
}

}  // namespace

double measure_product_gflops(DType storage) {
  const OwnedTensor x(storage, {kSize, kSize}, Device::cuda), y(storage, {kSize, kSize}, Device::cuda);
  {
    const OwnedTensor numbers(DType::f32, {kSize, kSize}, Device::cuda);
    HostEdit values(numbers.view, HostEdit::From::zeros);
    fill_normal(values.f32(), 0, kSize * kSize, 1, 1.0f);
    values.put();
    convert({.y_TD = x.view, .x_TD = numbers.view});
  }
  const double seconds = seconds_of(storage == DType::f32 ? 2 : 10,
                                    [&] { matmul_forward({.y_TN = y.view, .x_TD = x.view, .packed_weight = x.view}); });
  return 2e-9 * kSize * kSize * kSize / seconds;
}

double measure_copy_bytes_per_second() {
  const Buffer from(kCopied, Device::cuda), to(kCopied, Device::cuda);
  return 2 * static_cast<double>(kCopied) / seconds_of(10, [&] { device_copy(to.data(), from.data(), kCopied); });
}

}  // namespace engine::ops
