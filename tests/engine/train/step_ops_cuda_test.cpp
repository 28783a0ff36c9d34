// The ops of a step on a device, each of them run alone, and the device measured by them.
#include "engine/core/device.h"
#include "engine/train/step_time.h"
#include "tests/support/device.h"
#include "tests/support/mixed_config.h"

using engine::Config;
using engine::DType;
using engine::train::Layout;
using engine::train::StepOp;

namespace {

Layout layout_of(DType storage) {
  return {.device = test::Device::cuda, .element_bytes = storage == DType::f32 ? 4 : 2};
}

}  // namespace

TEST_CASE("cuda: every op of a step runs alone") {
  comm::ParallelGroups groups = comm::make_parallel_groups(comm::make_self_group(), 1);
  test::for_each_storage([&](DType storage) {
    for (const std::optional<double> capacity : {std::optional<double>(), std::optional<double>(1.3)}) {
      Config config = test::mixed_config();
      config.model.router.capacity_factor = capacity;
      const std::vector<StepOp> ops = engine::train::step_ops(config, layout_of(storage));
      CHECK(ops.size() > 60);
      for (const StepOp& op : ops) {
        INFO(op.name, ", capacity factor ", capacity.value_or(0));
        const StepOp::Run run = op.prepare(groups);
        const int64_t before = engine::device_waits().count;
        CHECK_NOTHROW(run());
        CHECK(engine::device_waits().count - before == (op.name == "route" && !capacity ? 1 : 0));
        CHECK_NOTHROW(engine::device_synchronize());
      }
    }
  });
}

TEST_CASE("cuda: what a device reaches is measured") {
#if defined(SWITCHYARD_EMULATED)
  if (emulation::checks_accesses()) {
    MESSAGE("skipped where every access is checked: the test above runs the same ops");
    return;
  }
#endif
  const Config config = test::mixed_config();
  const Layout layout = layout_of(DType::bf16);
  const engine::train::Machine machine = engine::train::measure_machine(config, layout, 0.01);
  CHECK(machine.description.memory.value > 0);
  CHECK(machine.description.element_bytes == 2);
  CHECK(machine.description.flops_per_second > 0);
  CHECK(machine.description.memory_bytes_per_second > 0);
  const std::vector<StepOp> ops = engine::train::step_ops(config, layout);
  double seconds = 0;
  for (const StepOp& op : ops) {
    const double slowdown = machine.slowdowns.at(op.name);
    CHECK(slowdown > 0);
    seconds += op.calls * slowdown * engine::train::least_seconds(op, machine.description, layout);
  }
  const auto time = engine::train::predict_step(ops, machine.description, layout, machine.slowdowns);
  CHECK(time.seconds == doctest::Approx(seconds));
}
