// Asking for a device, in every build: it is there, or the reason is an error of the environment.
#include "engine/core/device.h"

#include <doctest/doctest.h>

#include "engine/core/buffer.h"
#include "engine/core/error.h"

using namespace engine;

TEST_CASE("device: one that is not there is refused with the reason and exit code 4") {
  const std::string reason = why_no_device();
  if (reason.empty()) {
    CHECK_NOTHROW(require_device());
    return;
  }
  CHECK(reason.find("--device cpu") != std::string::npos);
  try {
    Buffer memory(64, Device::cuda);
    FAIL("memory of a device that is not there");
  } catch (const Error& error) {
    CHECK(error.code() == ExitCode::environment);
    CHECK(error.what() == reason);
  }
}
