// The grid: sums on it are exact whatever their order, and a step that outgrows it is asked for again.
#include "engine/train/gradient_grid.h"

#include <algorithm>
#include <bit>

#include "engine/core/error.h"
#include "engine/train/tensor_table.h"
#include "tests/support/compare.h"

namespace {

using namespace engine;

// Three weights, the last of which gets no gradient for now.
struct Fixture {
  explicit Fixture(int64_t granules)
      : groups(comm::make_parallel_groups(comm::make_self_group(), 1)),
        table(filled(store, granules), groups),
        grid(table, granules) {}
  static nn::ParameterStore& filled(nn::ParameterStore& store, int64_t granules) {
    for (const char* name : {"a", "b", "c"}) store.add({.name = name, .dims = {4}});
    store.commit(granules, true);
    return store;
  }
  // One step in which the largest |p| of each weight are these.
  bool step(float a, float b, float c = 0) {
    grid.begin_step();
    const float seen[3] = {a, b, c};
    for (size_t i = 0; i < 3; ++i) table.entries()[i].local->max_bits = std::bit_cast<uint32_t>(seen[i]);
    return grid.end_step(*groups.world);
  }

  comm::ParallelGroups groups;
  nn::ParameterStore store;
  train::TensorTable table;
  train::GradientGrid grid;
};

}  // namespace

TEST_CASE(
    "gradient_grid: the first step is computed twice, the next only if it is larger than the room above the bound") {
  Fixture f(4);
  CHECK_FALSE(f.step(0.3f, 0.001f));
  CHECK(f.step(0.3f, 0.001f));
  CHECK(f.grid.bounds() == std::vector<double>{0.5, std::ldexp(1.0, -9), 0});
  CHECK(f.step(0.5f, 0.0001f));  // bounds follow the gradient downwards at once
  CHECK(f.grid.bounds()[1] == std::ldexp(1.0, -13));
  CHECK(f.step(1000.0f, 0.0001f));  // h = 21 - 2 bits of room: up to 0.5 * 2^19
  CHECK_FALSE(f.step(1.1e9f, 0.0001f));
  CHECK(f.step(1.1e9f, 0.0001f));
}

TEST_CASE("gradient_grid: a weight without a gradient so far takes the largest bound of the others") {
  Fixture f(4);
  CHECK_FALSE(f.step(0.3f, 2.0f));
  CHECK(f.step(0.3f, 2.0f));
  CHECK(f.step(0.3f, 2.0f, 3.0f));
  CHECK(f.grid.bounds()[2] == 4);
}

TEST_CASE("gradient_grid: what is not finite is named") {
  Fixture f(4);
  try {
    f.step(1, std::numeric_limits<float>::quiet_NaN());
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(error.code() == ExitCode::numerical);
    CHECK(std::string(error.what()).find("the gradient of b is not finite") != std::string::npos);
  }
  CHECK_THROWS_AS(f.step(std::numeric_limits<float>::infinity(), 1), Error);
}

TEST_CASE(
    "gradient_grid: as many values as there are granules have the same sum in every order, 31 bits below the bound") {
  for (int64_t granules : {2, 4, 64, 2048}) {
    Fixture f(granules);
    f.step(1, 1);
    CHECK(f.step(1, 1));
    f.grid.begin_step();
    const double grid = f.table.entries()[0].local->gradient.grid, unit = grid / 1.5 / std::ldexp(1.0, 52);
    CHECK(unit <= std::ldexp(1.0, -31));
    std::vector<double> rounded;
    for (int64_t g = 0; g < granules; ++g) {
      // magnitudes from 2^-20 up to the end of the room
      const double p = static_cast<double>(test::value(9, g)) * std::ldexp(1.0, static_cast<int>(g % 30) - 20);
      const double q = (p + grid) - grid;
      CHECK(std::abs(q - p) <= unit / 2);
      rounded.push_back(q);
    }
    double forward = 0, backward = 0, halves[2] = {};
    for (size_t i = 0; i < rounded.size(); ++i) {
      forward += rounded[i];
      backward += rounded[rounded.size() - 1 - i];
      halves[i % 2] += rounded[i];
    }
    CHECK(forward == backward);
    CHECK(forward == halves[0] + halves[1]);
  }
}

TEST_CASE("gradient_grid: bounds of another model are refused, and more granules than can be added exactly") {
  Fixture f(4);
  CHECK_THROWS_AS(f.grid.set_bounds({1, 2}), Error);
  CHECK_THROWS_AS(train::GradientGrid(f.table, 4096), Error);
}
